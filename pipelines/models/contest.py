"""Who is compared with whom, on which rows, and what both say about the same photos."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

from monitoring.comparison import Paired
from monitoring.gates import Ratio
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.recipe import family_of
from pipelines.settings import Settings
from serving.runtime import Model, load_model
from training.data import SnapshotData

PARTS = ("golden", "fresh")
"""The splits that no model trains on."""
BATCH = 128
WARM_UP, TIMED = 3, 31
"""Single photos a model answers before, and while, it is timed."""

Floats = NDArray[np.float32]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """Who is compared with whom."""

    contender: Side
    opponent: Side
    siblings: tuple[Side, ...] = ()
    """The contender's candidate, fitted from other seeds."""
    objections: tuple[str, ...] = ()
    """Why the champion is not the opponent although there is one."""


# ------------------------------------------------------------------------------------------- who is judged


def _candidates(settings: Settings, run_ids: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """(run id, card) of each, the lowest validation log loss first."""
    if not run_ids:
        raise ClassyError("run_ids is empty: nothing to judge; give the runs that `classy optimize` packaged")
    cards = [
        (run_id, json.loads((tracking.fetch_package(settings, run_id) / "card.json").read_text())) for run_id in run_ids
    ]
    return sorted(cards, key=lambda pair: (pair[1]["val"]["log_loss"], pair[1]["candidate"]))


def arrange(
    settings: Settings, data: SnapshotData, run_ids: Sequence[str], current: Mapping[str, Any] | None
) -> Contest:
    """Choose the contender, and its opponent: the champion, else the best baseline, else a guess.

    The contender is a network where there is one: of each candidate's seeds the middle one by validation loss (of
    two middle ones the worse), of the candidates the one with the lowest such loss.

    Raises:
        ClassyError: a run is not packaged, or the contender was trained for other rows.
    """
    ranked = _candidates(settings, run_ids)
    baselines = [pair for pair in ranked if pair[1]["kind"] == "sklearn"]
    families: dict[str, list[str]] = {}
    for run_id, card in [pair for pair in ranked if pair[1]["kind"] != "sklearn"] or baselines:
        families.setdefault(family_of(card["candidate"]), []).append(run_id)
    place = {run_id: position for position, (run_id, _) in enumerate(ranked)}
    middle = {family: run_ids[len(run_ids) // 2] for family, run_ids in families.items()}
    family = min(middle, key=lambda name: place[middle[name]])
    contender = _side(settings, "contender", middle[family])
    if unlike := _unlike(contender, data):
        raise ClassyError(
            f"MLflow run {contender.run_id}: its {'; its '.join(unlike)}. It was trained for another recipe; "
            "judge it on a snapshot of its own"
        )
    others = [run_id for run_id in families[family] if run_id != contender.run_id]
    siblings = tuple(_side(settings, "contender", run_id) for run_id in others)
    objections: list[str] = []
    if current is not None:
        champion = _side(settings, "champion", current["champion_run_id"], current["champion_version"])
        objections = _unlike(champion, data)
        if not objections:
            return Contest(contender=contender, opponent=champion, siblings=siblings)
    opponent = Side(kind="guess")
    if baselines and contender.run_id not in [run_id for run_id, _ in baselines]:
        opponent = _side(settings, "baseline", baselines[0][0])
    return Contest(contender=contender, opponent=opponent, siblings=siblings, objections=tuple(objections))


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


# ----------------------------------------------------------------------------------------- on which rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """The rows that no model trained on, the golden ones first; element i of each field is about photo i."""

    image_ids: NDArray[np.str_]
    labels: NDArray[np.int64]
    senders: NDArray[np.str_]
    fresh: NDArray[np.bool_]
    drifted: NDArray[np.bool_]
    """Fresh rows since the drift began that asked for this training; none without one."""
    new_senders: NDArray[np.bool_]
    """Nothing was known about the sender when the photo came."""
    numbers: Mapping[str, NDArray[np.floating]]
    """Columns to cut into thirds, by name."""
    words: Mapping[str, NDArray[np.str_]]
    """Columns with a slice a value."""
    images: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
    """The canonical images [n, S, S, 3] at some positions, read when asked."""


def exam(data: SnapshotData, columns: Sequence[str] = ()) -> Exam:
    """The golden and fresh rows of a snapshot, with what slices are cut by.

    Args:
        columns: the recipe's `gates.slice_columns`: picture statistics, context names, or attributes of the source.

    Raises:
        ClassyError: there is no such column.
    """
    splits = [data.split(name) for name in PARTS]
    fresh = np.repeat([False, True], [len(split) for split in splits])
    captured_at = np.concatenate([split.captured_at for split in splits])
    since = data.meta.get("drift_from")
    numbers: dict[str, NDArray[Any]] = {
        name: np.concatenate([split.stats[:, i] for split in splits]) for i, name in enumerate(data.stats_names)
    }
    context = np.concatenate([split.context for split in splits])
    numbers |= {name: context[:, i] for i, name in enumerate(data.context_names) if name not in numbers}
    numbers["resolution"] = _column(data, "pixels").astype(np.float64)
    attributes = [json.loads(text) for text in _column(data, "attributes")]
    words = {
        name: np.asarray([found.get(name, "") for found in attributes])
        for name in sorted({name for found in attributes for name in found})
    }
    if unknown := [name for name in columns if name not in numbers and name not in words]:
        raise ClassyError(
            f"gates.slice_columns: {', '.join(unknown)}: the snapshot has no such column; it has "
            f"{', '.join([*numbers, *words])}. More come from the source's `attributes`"
        )

    def images(positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        golden = len(splits[0])
        picked = [splits[0].images[i : i + 1] if i < golden else splits[1].images[i - golden : i - golden + 1]
                  for i in positions]  # fmt: skip
        return np.concatenate(picked) if picked else np.empty((0, 1, 1, 3), np.uint8)

    return Exam(
        image_ids=np.concatenate([split.image_ids for split in splits]),
        labels=np.concatenate([split.labels for split in splits]),
        senders=np.concatenate([split.source_ids for split in splits]),
        fresh=fresh,
        drifted=fresh & (captured_at >= np.datetime64(since)) if since else np.zeros_like(fresh),
        new_senders=_column(data, "defaulted").astype(bool),
        numbers={name: numbers[name] for name in ("brightness", "resolution", *columns) if name in numbers},
        words={name: words[name] for name in columns if name in words},
        images=images,
    )


def _column(data: SnapshotData, name: str) -> NDArray[Any]:
    return np.concatenate([data.column(name, part) for part in PARTS])


# ------------------------------------------------------------------------------------------- what they say


def predict(data: SnapshotData, given: Exam, contest: Contest) -> tuple[Paired, list[Paired]]:
    """Contender and opponent on the exam's rows; and each sibling of the contender against the same opponent."""
    everyone = [contest.opponent, contest.contender, *contest.siblings]
    width = len(data.classes)
    train = data.split("train").labels
    prior = (np.bincount(train, minlength=width) / max(len(train), 1)).astype(np.float32)
    said: list[list[Floats]] = [[np.empty((0, width), np.float32)] for _ in everyone]
    with tqdm(total=len(given.labels), desc="judging", unit="photo", disable=None) as bar:
        for part in PARTS:
            for images, context, labels in data.split(part).batches(BATCH):
                for answers, side in zip(said, everyone, strict=True):
                    answers.append(_answers(side, images, context, prior))
                bar.update(len(labels))
    theirs, *ours = (np.concatenate(answers) for answers in said)
    contender, *siblings = (
        Paired(labels=given.labels, contender=answers, opponent=theirs, senders=given.senders) for answers in ours
    )
    return contender, siblings


def _answers(side: Side, images: NDArray[np.uint8], context: Floats, prior: Floats) -> Floats:
    if side.model is None:
        return np.tile(prior, (len(images), 1))
    return side.model.predict(images, context).probabilities


def latency(data: SnapshotData, contest: Contest, confidence: float) -> Ratio | None:
    """Median milliseconds of one photo, the models taking turns so that a busy machine slows both.

    The factor's upper bound is that of the median of the turns' ratios, by order statistics: no shape is assumed.
    None where the opponent is no model, or there is no row.
    """
    split = max((data.split(name) for name in PARTS), key=len)
    models = [side.model for side in (contest.contender, contest.opponent) if side.model is not None]
    if len(models) < 2 or len(split) == 0:
        return None
    taken = np.empty((WARM_UP + TIMED, 2))
    for turn in range(len(taken)):
        row = slice(turn % len(split), turn % len(split) + 1)
        image, context = split.images[row], split.context[row]
        for number, model in enumerate(models):
            start = time.perf_counter()
            model.predict(image, context)
            taken[turn, number] = 1000 * (time.perf_counter() - start)
    ours, theirs = taken[WARM_UP:].T
    high = int(stats.binom.ppf(confidence, TIMED, 0.5))
    return Ratio(
        gate="latency",
        contender=statistics.median(ours),
        opponent=statistics.median(theirs),
        high=float(np.sort(ours / theirs)[min(high, TIMED - 1)]),
        unit="ms",
    )
