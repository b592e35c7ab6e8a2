"""What Feast knows: two entities, two views, the context made of them on demand, and the service a model names.

    CLASSY_FEATURES_ROOT=$PWD/var/features feast -c feature_repo feature-views list

Feast imports this file by itself, without the rest of Classy, so it imports nothing of it. What depends on
the recipe comes in as `Parameters`; `pipelines/data/features.py` keeps them beside the registry, where Feast's
own commands find them through the environment.
"""

import hashlib
import inspect
import json
import os
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import FunctionType
from typing import Any, cast

from feast import Entity, FeatureService, FeatureView, Field, FileSource, OnDemandFeatureView
from feast.data_format import ParquetFormat
from feast.transformation.udf_rehydrate import rehydrate_udf_from_source
from feast.types import Array, Bool, Float32, Float64, Int64
from feast.value_type import ValueType

SERVICE = "context_v1"
PARAMETERS = "parameters.json"

PROFILE = {"photos": Int64, "labelled": Int64, "label_share": Float64, "class_mix": Array(Float32)}
HABITS = {"mean_brightness": Float64, "mean_sharpness": Float64}


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """What a recipe decides about features."""

    offline: str
    """Folder or URI with `image_stats/` and `source_profile/`."""
    stats: tuple[str, ...]
    """Names of the picture statistics, in the order of the context."""
    classes: tuple[str, ...]
    profile_days: int
    max_age_days: int

    def dump(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def load(cls, text: str) -> "Parameters":
        given = json.loads(text)
        return cls(**{**given, "stats": tuple(given["stats"]), "classes": tuple(given["classes"])})


def context(inputs: dict[str, list[Any]], stats: tuple[str, ...] = (), classes: int = 0) -> dict[str, list[Any]]:
    """Context rows: the picture's statistics, log(1 + photos), label_share and class_mix of its sender.

    The one definition of the transform, offline and online. An unknown sender, or one whose profile is
    older than the view's ttl, has sent nothing and has every class alike; `defaulted` says so. A missing
    statistic is 0. Feast keeps this source text and runs it alone, so everything it needs is inside.
    """
    import math

    rows, defaulted = [], []
    for i, photos in enumerate(inputs["photos"]):
        picture = [inputs[name][i] for name in stats]
        known = photos is not None and photos == photos
        share = inputs["label_share"][i] if known else 0.0
        mix = list(inputs["class_mix"][i]) if known else [1.0 / classes] * classes
        row = [*picture, math.log1p(photos) if known else 0.0, share, *mix]
        rows.append([0.0 if value is None or value != value else float(value) for value in row])
        defaulted.append(not known)
    return {"context": rows, "defaulted": defaulted}


def context_source(parameters: Parameters) -> str:
    """The source of `context` with the recipe's values as defaults.

    Feast stores a transform as source text and runs that: it cannot close over a variable, and its other
    way, a pickle in the registry, is not ours.
    """
    source = inspect.getsource(context)
    source = source.replace("stats: tuple[str, ...] = ()", f"stats: tuple[str, ...] = {parameters.stats!r}", 1)
    source = source.replace("classes: int = 0", f"classes: int = {len(parameters.classes)}", 1)
    return source.replace("dict[str, list[Any]]", "dict")


def service_hash(parameters: Parameters, context_names: tuple[str, ...]) -> str:
    """SHA-256 over names, types and the transform's source, 12 hex digits: what a model must agree with."""
    text = json.dumps(
        {
            "service": SERVICE,
            "context": context_names,
            "stats": parameters.stats,
            "profile": {name: str(dtype) for name, dtype in {**PROFILE, **HABITS}.items()},
            "profile_days": parameters.profile_days,
            "max_age_days": parameters.max_age_days,
            "transform": context_source(parameters),
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _view(name: str, entity: Entity, types: dict[str, Any], parameters: Parameters, description: str) -> FeatureView:
    source = FileSource(
        name=f"{name}_files",
        path=f"{parameters.offline}/{name}/*.parquet",
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
    )
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(days=parameters.max_age_days),
        schema=[Field(name=field, dtype=dtype) for field, dtype in types.items()],
        source=source,
        description=description,
    )


def objects(parameters: Parameters) -> list[Any]:
    """Everything to `apply`, in order: entities, views, the on-demand view, the service."""
    image = Entity(name="image", join_keys=["image_id"], value_type=ValueType.STRING, description="One photo")
    source = Entity(name="source", join_keys=["source_id"], value_type=ValueType.STRING, description="Who sent it")
    pictures = dict.fromkeys(parameters.stats, Float64)
    image_stats = _view("image_stats", image, pictures, parameters, "What a photo looks like, from when it was taken")
    profile = _view(
        "source_profile",
        source,
        {**PROFILE, **HABITS},
        parameters,
        f"What was known about a sender at the end of a day, over {parameters.profile_days} days",
    )
    text = context_source(parameters)
    on_demand = OnDemandFeatureView(
        name="context",
        sources=[image_stats, profile],
        schema=[Field(name="context", dtype=Array(Float32)), Field(name="defaulted", dtype=Bool)],
        udf=cast(FunctionType, rehydrate_udf_from_source(text, preferred_name="context")),
        udf_string=text,
        mode="python",
        description="What a model is told beside the picture",
    )
    service = FeatureService(
        name=SERVICE,
        features=[on_demand],
        description="The context of a model; its card names this service and its hash",
        tags={"classes": str(len(parameters.classes)), "transform": hashlib.sha256(text.encode()).hexdigest()[:12]},
    )
    return [image, source, image_stats, profile, on_demand, service]


if _root := os.environ.get("CLASSY_FEATURES_ROOT"):
    # Feast's commands look for objects in the module; each gets a name of its own here.
    _file = Path(_root) / PARAMETERS
    if _file.exists():
        globals().update({f"feast_{i}": thing for i, thing in enumerate(objects(Parameters.load(_file.read_text())))})
