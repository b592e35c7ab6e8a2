"""What the model is told beside the picture: Feast, opened for one recipe.

Offline, `context_rows` asks Feast for what was known at each photo's own time. Online, `online_context`
reads the newest profile of each sender. The transform of both is `feature_repo.definitions.context`.
"""

import atexit
import contextlib
import functools
import io
import json
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from string import Template

import feast.infra.compute_engines.local.compute
import feast.infra.offline_stores.duckdb
import feast.infra.online_stores.sqlite
import feast.infra.passthrough_provider
import feast.infra.registry.file
import ibis
import ibis.backends.duckdb
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import yaml
from feast import FeatureStore, RepoConfig
from filelock import FileLock, Timeout
from numpy.typing import NDArray

import feature_repo
from feature_repo.definitions import PARAMETERS, PROFILE, SERVICE, Parameters, context, objects
from feature_repo.definitions import service_hash as hash_of
from pipelines import files
from pipelines.data.senders import NOTHING, ProfileReader
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.pictures import STATS

# Feast finds its parts by name on first use; named here, a forked task inherits them (0.8 s each time).
_PARTS = (
    feast.infra.compute_engines.local.compute,
    feast.infra.offline_stores.duckdb,
    feast.infra.online_stores.sqlite,
    feast.infra.passthrough_provider,
    feast.infra.registry.file,
    ibis.backends.duckdb,
)

LOCK_SECONDS = 120.0
"""How long one process waits for another that materializes: a day takes about a second."""

Context = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Feast, opened. Make one with `open_features`."""

    store: FeatureStore
    parameters: Parameters
    context_names: tuple[str, ...]
    lock: FileLock

    @property
    def width(self) -> int:
        """F, the length of a context row."""
        return len(self.context_names)

    @property
    def max_age(self) -> timedelta:
        """A profile older than this is as good as none."""
        return timedelta(days=self.parameters.max_age_days)


def context_names(recipe: Recipe) -> tuple[str, ...]:
    """The F names of a context row, in order: 7 STATS, log_photos, label_share, mix_CLASS for each class."""
    mix = tuple(f"mix_{name}" for name in recipe.taxonomy.classes)
    return (*STATS, "log_photos", "label_share", *mix)


def service_hash(recipe: Recipe) -> str:
    """SHA-256 over the service's names, types and transform, 12 hex digits. A model serves only with its own."""
    return hash_of(_parameters("", recipe), context_names(recipe))


def offline_file(settings: Settings, view: str, day: date) -> str:
    """Where the offline rows of one view and day lie."""
    return files.join(settings.data_root, "features", view, f"date={day}.parquet")


def open_features(settings: Settings, recipe: Recipe) -> Features:
    """Open the store for reading.

    Raises:
        ClassyError: nothing was materialized yet, or it was with other definitions than the recipe's.
    """
    root = Path(settings.features_root)
    parameters = _parameters(files.join(settings.data_root, "features"), recipe)
    known = _known(root)
    if known is None:
        raise ClassyError(f"{root}: no features there yet; run `classy materialize` for a day first")
    if known != parameters:
        raise ClassyError(
            f"{root}: features were made for {_difference(known, parameters)}; "
            f"run `classy materialize` again for each day"
        )
    lock = _lock(root)
    with _hold(lock):
        return Features(store=_store(root), parameters=parameters, context_names=context_names(recipe), lock=lock)


def apply_features(settings: Settings, recipe: Recipe) -> Features:
    """Open the store for writing: register the definitions where they are not those registered already.

    Applying again what is there would be harmless today, but has reset the watermark in some versions of
    Feast (#2905), so it is not done.
    """
    root = Path(settings.features_root)
    root.mkdir(parents=True, exist_ok=True)
    parameters = _parameters(files.join(settings.data_root, "features"), recipe)
    mark = root / "applied"
    wanted = hash_of(parameters, context_names(recipe)) + parameters.offline
    lock = _lock(root)
    with _hold(lock):
        store = _store(root)
        if not mark.exists() or mark.read_text() != wanted or _known(root) != parameters:
            with _quiet():
                store.apply(objects(parameters))
            files.write_text(str(root / PARAMETERS), parameters.dump())
            files.write_text(str(mark), wanted)
            store.refresh_registry()
        return Features(store=store, parameters=parameters, context_names=context_names(recipe), lock=lock)


def watermark(handle: Features) -> datetime | None:
    """The latest time up to which every view is online, or None before the first materialization."""
    ends = [view.most_recent_end_time for view in handle.store.list_feature_views()]
    known = [end for end in ends if end is not None]
    return min(known) if known and len(known) == len(ends) else None


def bring_online(handle: Features, *, start: datetime, end: datetime) -> datetime:
    """Put the newest offline value of each entity with rows in [start, end] online; give the new watermark.

    This is Feast's own `materialize`, not `write_to_online_store`: it takes 0.1 s for a day of 200 photos,
    keeps the watermark, and reads the newest row of each entity from the offline files. SQLite's online
    store overwrites without looking at times, so an older day that comes again is read together with all
    days after it, up to the watermark: newer values win. The end is never beyond the days that were made.
    """
    with _hold(handle.lock):
        handle.store.refresh_registry()
        reached = watermark(handle)
        end = end if reached is None else max(end, reached)
        with _quiet():
            handle.store.materialize(start_date=start, end_date=end)
        return end


# ------------------------------------------------------------------------------------------- context rows


def context_rows(handle: Features, frame: pd.DataFrame) -> tuple[Context, NDArray[np.bool_]]:
    """The context of photos, each as of the time it was taken.

    A sender's profile is dated by when it was available (the end of its day, from labels said by then), so
    the join cannot see a label that came later, even when the profile was computed later.

    Args:
        frame: image_id, source_id, captured_at (aware UTC), any index.

    Returns:
        float32 [N, F] in the frame's order, and whether the sender was unknown then, bool [N].

    Raises:
        ClassyError: a photo has no `image_stats`, or profiles were made for other classes.
    """
    if frame.empty:
        return np.empty((0, handle.width), np.float32), np.empty(0, np.bool_)
    asked = pd.DataFrame(
        {
            "image_id": frame["image_id"].to_numpy(),
            "source_id": frame["source_id"].to_numpy(),
            "event_timestamp": pd.to_datetime(frame["captured_at"], utc=True).dt.as_unit("us").array,
            "asked": np.arange(len(frame)),
        }
    )
    service = handle.store.get_feature_service(SERVICE)
    with _quiet():
        table = handle.store.get_historical_features(entity_df=asked, features=service).to_arrow()
    table = table.sort_by("asked")
    lost = table.filter(pc.is_null(table[STATS[0]]))["image_id"].to_pylist()
    if lost:
        raise ClassyError(
            f"{len(lost)} photos have no image_stats, such as {', '.join(lost[:3])}; "
            f"run `classy materialize` for their days (or raise features.max_age_days)"
        )
    return _matrix(handle, table["context"].to_pylist()), np.asarray(table["defaulted"].to_pylist(), np.bool_)


def online_context(
    handle: Features, stats: Sequence[dict[str, float]], source_ids: Sequence[str], *, at: datetime
) -> tuple[Context, NDArray[np.bool_]]:
    """The context of photos that are asked about now: their own statistics, and their senders' newest profile.

    Feast does not look at `ttl` when it reads online (#6821); here a profile older than the ttl at `at` is
    as good as none, as it is offline.

    Args:
        stats: what `serving.pictures.picture_stats` says of each photo.
        source_ids: the sender of each photo.
        at: the time of the question, aware.

    Returns:
        float32 [N, F], and whether the sender is unknown, bool [N].
    """
    if len(stats) == 0:
        return np.empty((0, handle.width), np.float32), np.empty(0, np.bool_)
    found = ProfileReader(handle.store).read(sorted(set(source_ids)))
    known = {sender: profile.at(at, handle.max_age) for sender, profile in found.items()}
    columns = {name: [row[name] for row in stats] for name in handle.parameters.stats}
    return contexts(handle, columns, [known.get(sender, NOTHING) for sender in source_ids])


def contexts(
    handle: Features, stats: dict[str, list[float]], profiles: Sequence[dict[str, object]]
) -> tuple[Context, NDArray[np.bool_]]:
    """Context rows of photos asked about now.

    Args:
        stats: a column for each of the parameters' stats.
        profiles: of each photo's sender, with the names of PROFILE.

    Returns:
        float32 [N, F], and whether the sender is unknown, bool [N].
    """
    inputs = stats | {name: [profile[name] for profile in profiles] for name in PROFILE}
    answer = context(inputs, handle.parameters.stats, len(handle.parameters.classes))
    return _matrix(handle, answer["context"]), np.asarray(answer["defaulted"], np.bool_)


def _matrix(handle: Features, rows: list[list[float]]) -> Context:
    wrong = {len(row) for row in rows} - {handle.width}
    if wrong:
        raise ClassyError(
            f"context rows of {sorted(wrong)} numbers, the recipe has {handle.width}: source_profile was made for "
            f"other classes; run `classy materialize` again for each day"
        )
    return np.asarray(rows, np.float32).reshape(len(rows), handle.width)


# ----------------------------------------------------------------------------------------------- opening


def _parameters(offline: str, recipe: Recipe) -> Parameters:
    return Parameters(
        offline=offline,
        stats=STATS,
        classes=recipe.taxonomy.classes,
        profile_days=recipe.features.profile_days,
        max_age_days=recipe.features.max_age_days,
    )


def _known(root: Path) -> Parameters | None:
    try:
        return Parameters.load((root / PARAMETERS).read_text())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise ClassyError(
            f"{root / PARAMETERS}: not readable ({error}); remove {root} and materialize again"
        ) from error


def _difference(known: Parameters, wanted: Parameters) -> str:
    names = [name for name in Parameters.__slots__ if getattr(known, name) != getattr(wanted, name)]
    return ", ".join(f"{name}={getattr(known, name)!r} (now {getattr(wanted, name)!r})" for name in names)


def _store(root: Path) -> FeatureStore:
    text = (Path(feature_repo.__file__).parent / "feature_store.yaml").read_text()
    _close_at_exit()
    raw = yaml.safe_load(Template(text).safe_substitute(CLASSY_FEATURES_ROOT=str(root)))
    with _quiet():
        return FeatureStore(config=RepoConfig(**raw))


@functools.cache
def _close_at_exit() -> None:
    # Feast reads through ibis' default connection, which nobody closes; DuckDB then ends every process with
    # a page about leaked instances.
    atexit.register(_close_duckdb)


def _close_duckdb() -> None:
    backend = ibis.options.default_backend
    if backend is not None:
        ibis.options.default_backend = None
        backend.disconnect()


def _lock(root: Path) -> FileLock:
    # Feast rewrites its registry file in place: a reader must not see it half-written, nor two writers meet.
    return FileLock(root / "registry.lock", timeout=LOCK_SECONDS)


@contextlib.contextmanager
def _hold(lock: FileLock) -> Iterator[None]:
    try:
        with lock:
            yield
    except Timeout:
        raise ClassyError(
            f"{lock.lock_file}: held by another process for {LOCK_SECONDS:.0f} s; is a materialization stuck?"
        ) from None


_SILENCE = threading.Lock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Feast prints coloured progress on standard output, where `--json` has its receipt, and warns of its
    # own and its libraries' ageing. Errors still come as exceptions. Streams and warning filters are the
    # process's, so one thread at a time.
    with (
        _SILENCE,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="On demand feature view", category=RuntimeWarning)
        yield
