"""How long it takes to look up senders' features, against a raw read of the same store.

    python -m benchmarks.feature_lookup

The raw read is what could not be spared: plain SQL on Feast's SQLite file for the same senders, whose keys are made
before, and the decoding of the same protobufs. Ours gives whole context rows, with age enforced.
"""

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from benchmarks.record import Row
from feature_repo.definitions import PROFILE
from pipelines.data import features
from pipelines.data.profiles import PROFILE_SCHEMA
from pipelines.online.features import OnlineFeatures
from pipelines.recipe import Recipe, load_recipe
from pipelines.settings import load_settings
from serving.photos import Photo
from serving.pictures import STATS

AT = datetime(2026, 3, 2, tzinfo=UTC)
SENDERS = 500
GOAL = 0.5
"""Within twice a raw read."""
SELECT = (
    "SELECT entity_key, feature_name, value, event_ts FROM classy_source_profile "
    "WHERE entity_key IN ({keys}) AND feature_name IN ({names})"
)


def rows(*, rounds: int = 2000) -> list[Row]:
    """Uncached and cached, for 1 sender and for 32, in turns with the raw read."""
    recipe = load_recipe("digits")
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(home=Path(folder))
        senders = _materialize(settings.home, recipe)
        uncached = OnlineFeatures(settings, _with_cache(recipe, 0))
        cached = OnlineFeatures(settings, _with_cache(recipe, 3600))
        raw = _raw(Path(settings.features_root) / "online.db", senders)
        cached.fill(_photos(senders), AT)
        found = []
        for count in (1, 32):
            took = _measure(senders, count, rounds if count == 1 else rounds // 4, uncached, cached, raw)
            found += [_row(name, count, took) for name in ("uncached", "cached")]
    return found


def _measure(
    senders: Sequence[str],
    count: int,
    rounds: int,
    uncached: OnlineFeatures,
    cached: OnlineFeatures,
    raw: Callable[[Sequence[str]], object],
) -> dict[str, list[float]]:
    """Seconds of each way, by name; the ways take turns and change their order."""
    rng = np.random.default_rng(7)
    took: dict[str, list[float]] = {"uncached": [], "cached": [], "raw": []}
    for number in range(rounds):
        names = [str(name) for name in rng.choice(senders, count, replace=False)]
        ways: list[tuple[str, Callable[[], object]]] = [
            ("uncached", partial(uncached.fill, _photos(names), AT)),
            ("cached", partial(cached.fill, _photos(names), AT)),
            ("raw", partial(raw, names)),
        ]
        for name, way in ways[number % 3 :] + ways[: number % 3]:
            start = time.perf_counter()
            way()
            took[name].append(time.perf_counter() - start)
    return took


def _row(name: str, count: int, took: dict[str, list[float]]) -> Row:
    ours, other = (1e6 * statistics.median(took[which]) for which in (name, "raw"))
    low, high = (1e6 * value for value in np.quantile(took[name], [0.25, 0.75]))
    return Row(
        name="feature_lookup" if (name, count) == ("uncached", 1) else f"feature_lookup_{name}_{count}",
        ours=round(ours, 1),
        other=round(other, 1),
        other_name="raw read of the same store",
        unit="µs, p50",
        better="less",
        spread=f"{low:.0f} to {high:.0f} (quartiles); {name}, {count} sender{'s' if count > 1 else ''} a request",
        goal=GOAL,
    )


def _photos(senders: Sequence[str]) -> list[Photo]:
    return [Photo(sender=sender, stats=_STATS) for sender in senders]


_STATS = np.full(len(STATS), 0.5, np.float32)


def _with_cache(recipe: Recipe, seconds: float) -> Recipe:
    return recipe.model_copy(update={"serving": recipe.serving.model_copy(update={"feature_cache_s": seconds})})


def _materialize(home: Path, recipe: Recipe) -> list[str]:
    """Profiles of made-up senders, brought online as `classy materialize` does; gives their names."""
    settings = load_settings(home=home)
    senders = [f"sender-{number:04d}" for number in range(SENDERS)]
    rng = np.random.default_rng(7)
    classes = len(recipe.taxonomy.classes)
    day = (AT - timedelta(days=1)).date()
    profile = pa.table(
        {
            "source_id": senders,
            "event_timestamp": [AT] * SENDERS,
            "photos": rng.integers(1, 200, SENDERS),
            "labelled": rng.integers(0, 2, SENDERS),
            "label_share": rng.random(SENDERS),
            "class_mix": list(rng.dirichlet(np.ones(classes), SENDERS).astype(np.float32)),
            "mean_brightness": rng.random(SENDERS),
            "mean_sharpness": rng.random(SENDERS),
        },
        schema=PROFILE_SCHEMA,
    )
    picture = pa.table({"image_id": ["one"], "event_timestamp": [AT], **{name: [0.5] for name in STATS}})
    for view, table in (("source_profile", profile), ("image_stats", picture)):
        path = Path(features.offline_file(settings, view, day))
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    handle = features.apply_features(settings, recipe)
    features.bring_online(handle, start=AT - timedelta(days=1), end=AT)
    return senders


def _raw(path: Path, senders: Sequence[str]) -> Callable[[Sequence[str]], object]:
    """Plain SQL and protobuf."""
    connection = sqlite3.connect(path)
    keys = {
        name: serialize_entity_key(EntityKey(join_keys=["source_id"], entity_values=[Value(string_val=name)]), 3)
        for name in senders
    }
    wanted = tuple(PROFILE)
    names = ",".join("?" * len(wanted))

    def read(asked: Sequence[str]) -> list[tuple[bytes, str, Value, int]]:
        statement = SELECT.format(keys=",".join("?" * len(asked)), names=names)
        found = connection.execute(statement, [*(keys[name] for name in asked), *wanted]).fetchall()
        return [(key, name, Value.FromString(data), at) for key, name, data, at in found]

    return read


if __name__ == "__main__":
    for one in rows():
        print(f"{one.name}: {one.ours} {one.unit} (raw read {one.other}); {one.spread}")
