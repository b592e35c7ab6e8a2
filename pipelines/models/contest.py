"""Who is compared with whom, and what both say about the same photos."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from monitoring.comparison import Paired
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.settings import Settings
from serving.runtime import Model, load_model
from training.data import SnapshotData

PARTS = ("golden", "fresh")
"""The splits that no model trains on."""
BATCH = 128
WARM_UP, TIMED = 2, 15
"""Single photos a model answers before, and while, it is timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two that are compared."""

    kind: str
    """contender, champion, baseline or guess."""
    run_id: str = ""
    version: str | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    model: Model | None = None
    """None where the opponent is a guess."""


# ------------------------------------------------------------------------------------------- who is judged


def _candidates(settings: Settings, run_ids: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """(run id, card) of each, the lowest validation log loss first."""
    if not run_ids:
        raise ClassyError("run_ids is empty: nothing to judge; give the runs that `classy optimize` packaged")
    cards = [
        (run_id, json.loads((tracking.fetch_package(settings, run_id) / "card.json").read_text())) for run_id in run_ids
    ]
    return sorted(cards, key=lambda pair: (pair[1]["val"]["log_loss"], pair[1]["candidate"]))


def sides(
    settings: Settings, data: SnapshotData, run_ids: Sequence[str], current: Mapping[str, Any] | None
) -> tuple[Side, Side, list[str]]:
    """The contender, its opponent, and why the champion is not the opponent although there is one."""
    ranked = _candidates(settings, run_ids)
    networks = [pair for pair in ranked if pair[1]["kind"] != "sklearn"]
    baselines = [pair for pair in ranked if pair[1]["kind"] == "sklearn"]
    contender = _side(settings, "contender", (networks or baselines)[0][0])
    if unlike := _unlike(contender, data):
        raise ClassyError(
            f"MLflow run {contender.run_id}: its {'; its '.join(unlike)}. It was trained for another recipe; "
            "judge it on a snapshot of its own"
        )
    objections: list[str] = []
    if current is not None:
        champion = _side(settings, "champion", current["champion_run_id"], current["champion_version"])
        objections = _unlike(champion, data)
        if not objections:
            return contender, champion, []
    if networks and baselines:
        return contender, _side(settings, "baseline", baselines[0][0]), objections
    return contender, Side(kind="guess"), objections


def _side(settings: Settings, kind: str, run_id: str, version: str | None = None) -> Side:
    model = load_model(tracking.fetch_package(settings, run_id), threads=settings.threads)
    return Side(kind=kind, run_id=run_id, version=version, card=model.card, model=model)


def _unlike(side: Side, data: SnapshotData) -> list[str]:
    """In what a model's card and the snapshot differ, so that it cannot answer these rows."""
    card = side.card
    pairs = {
        "classes": (list(card["classes"]), list(data.classes)),
        "image": (card["image_spec_hash"], data.meta["spec_hash"]),
        "context": (list(card["context_names"]), list(data.context_names)),
    }
    return [
        f"{name} ({_short(mine)}) differ from the snapshot's ({_short(theirs)})"
        for name, (mine, theirs) in pairs.items()
        if mine != theirs
    ]


def _short(value: object) -> str:
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


# ------------------------------------------------------------------------------------------- what they say


def predict(
    data: SnapshotData, contender: Side, opponent: Side
) -> tuple[Paired, NDArray[np.bool_], NDArray[np.float32]]:
    """Both sides' answers on the golden, then the fresh rows; which are fresh; how bright they are."""
    splits = [data.split(name) for name in PARTS]
    width = len(data.classes)
    train = data.split("train").labels
    prior = (np.bincount(train, minlength=width) / max(len(train), 1)).astype(np.float32)
    ours, theirs = [np.empty((0, width), np.float32)], [np.empty((0, width), np.float32)]
    with tqdm(total=sum(map(len, splits)), desc="judging", unit="photo", disable=None) as bar:
        for split in splits:
            for images, context, labels in split.batches(BATCH):
                ours.append(_answers(contender, images, context, prior))
                theirs.append(_answers(opponent, images, context, prior))
                bar.update(len(labels))
    paired = Paired(
        labels=np.concatenate([split.labels for split in splits]),
        contender=np.concatenate(ours),
        opponent=np.concatenate(theirs),
        senders=np.concatenate([split.source_ids for split in splits]),
    )
    fresh = np.repeat([False, True], [len(split) for split in splits])
    brightness = np.concatenate([split.stats[:, data.stats_names.index("brightness")] for split in splits])
    return paired, fresh, brightness


def _answers(
    side: Side, images: NDArray[np.uint8], context: NDArray[np.float32], prior: NDArray[np.float32]
) -> NDArray[np.float32]:
    if side.model is None:
        return np.tile(prior, (len(images), 1))
    return side.model.predict(images, context).probabilities


def latency(data: SnapshotData, contender: Side, opponent: Side) -> dict[str, float | None]:
    """Median milliseconds of one photo, the models taking turns so that a busy machine slows both."""
    models = {name: side.model for name, side in (("contender", contender), ("opponent", opponent)) if side.model}
    split = max((data.split(name) for name in PARTS), key=len)
    taken: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(WARM_UP + TIMED if len(split) else 0):
        row = slice(turn % len(split), turn % len(split) + 1)
        image, context = split.images[row], split.context[row]
        for name, model in models.items():
            start = time.perf_counter()
            model.predict(image, context)
            taken[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(times[WARM_UP:]) for name, times in taken.items() if times}
    return {name: medians.get(name) for name in ("contender", "opponent")}
