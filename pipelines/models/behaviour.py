"""Ask a model what it must do beside being right: the same photos, changed a little; the same photos, other senders.

The photos are golden and fresh ones, so no model has seen them. Both sides answer the very same changed pixels.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from monitoring.behaviour import BehaviourRow, Claim, class_floor, not_less_likely, same_answer, share_row
from monitoring.comparison import Paired
from monitoring.gates import Finding
from pipelines.models.contest import PARTS, Side
from pipelines.sections import Behaviour, Gates
from serving.pictures import STATS, picture_stats
from serving.runtime import Model
from training.data import SnapshotData

MOST = 400
"""Photos that are changed and asked about again."""
BATCH = 64
SEED = 7
TOLERANCE = 0.01
"""A class may lose this much probability and still count as not less likely: below it there is nothing to see."""
FAVOUR = 0.9
"""A sender who favours a class sends as much of it as this quantile of the known senders do of their favourite."""

Images = NDArray[np.uint8]
Context = NDArray[np.float32]
Question = tuple[Images, Context]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Photos:
    """Golden, then fresh rows: element i of each field is about photo i."""

    data: SnapshotData
    context: Context
    labels: NDArray[np.int64]
    senders: NDArray[np.str_]

    def images(self, where: NDArray[np.intp]) -> Images:
        """The images at some ascending positions."""
        golden, fresh = (self.data.split(name).images for name in PARTS)
        first = where < len(golden)
        return np.concatenate([golden[where[first]], fresh[where[~first] - len(golden)]])


def examine(
    data: SnapshotData,
    contender: Side,
    opponent: Side,
    behaviour: Behaviour,
    gates: Gates,
    *,
    paired: Paired | None = None,
    most: int = MOST,
) -> list[BehaviourRow]:
    """Ask both sides what the recipe's `behaviour` asks for.

    Each photo is answered at most six times a side. The context test is left out where the context says nothing of
    the sender's classes, or no sender was known in training; the class floor where no class has
    `gates.slice_min_rows` photos.

    Args:
        paired: what both answered on the golden, then the fresh rows, where that is known: for the class floor alone,
            which asks all of them.
        most: photos of the seeded sample for the other tests.
    """
    photos = _photos(data)
    if contender.model is None or len(photos.labels) == 0:
        return []
    claims = _claims(behaviour)
    models = [side.model for side in (contender, opponent) if side.model is not None]
    picked = _picked(len(photos.labels), most)
    rows = []
    if claims:
        ours, *others = _held(photos, models, behaviour, picked)
        theirs = others[0] if others else {}
        rows = [
            share_row(
                claim,
                ours[claim.test],
                theirs.get(claim.test),
                photos.senders[picked],
                asked=behaviour.min_agreement,
                confidence=gates.confidence,
                opponent=opponent.kind,
            )
            for claim in claims
            if claim.test in ours
        ]
    floor = _floor(photos, contender, opponent, behaviour, gates, paired)
    return [*rows, floor] if floor is not None else rows


def findings(rows: Sequence[BehaviourRow], gating: bool) -> tuple[Finding, ...]:
    """What holds a contender back; nothing where the recipe only wants it reported."""
    if not gating:
        return ()
    return tuple(
        Finding(
            gate=f"behaviour: {row.test}",
            outcome="pass" if row.passed else "unknown" if row.is_open else "fail",
            sentence=row.sentence,
        )
        for row in rows
    )


def _photos(data: SnapshotData) -> _Photos:
    splits = [data.split(name) for name in PARTS]
    return _Photos(
        data=data,
        context=np.concatenate([split.context for split in splits]),
        labels=np.concatenate([split.labels for split in splits]),
        senders=np.concatenate([split.source_ids for split in splits]),
    )


def _picked(count: int, most: int) -> NDArray[np.intp]:
    """Ascending positions of a seeded sample."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).choice(count, most, replace=False))


def _claims(behaviour: Behaviour) -> list[Claim]:
    photos = {
        "flip": "Mirrored photos" if behaviour.flip else "",
        "shift": f"Photos moved by {behaviour.shift:.0%} of their side" if behaviour.shift else "",
        "jpeg": f"Photos saved as JPEG of quality {behaviour.jpeg}" if behaviour.jpeg else "",
    }
    claims = [
        Claim(test=test, holds=f"{words} keep their answer", fails=f"{words} lose their answer")
        for test, words in photos.items()
        if words
    ]
    if behaviour.context:
        more = "less likely when its sender sends more of it"
        claims.append(Claim(test="context", holds=f"A class is not {more}", fails=f"A class is {more}"))
    return claims


# ---------------------------------------------------------------------------------------------- the questions


def _held(
    photos: _Photos, models: Sequence[Model], behaviour: Behaviour, picked: NDArray[np.intp]
) -> list[dict[str, NDArray[np.bool_]]]:
    """On which picked photos each test holds, a table a model."""
    said: list[dict[str, list[NDArray[np.float32]]]] = [{} for _ in models]
    tellers = _tellers(photos) if behaviour.context else None
    with tqdm(total=len(picked), desc="behaviour", unit="photo", disable=None) as bar:
        for start in range(0, len(picked), BATCH):
            where = picked[start : start + BATCH]
            for name, (images, context) in _questions(photos, where, behaviour, tellers).items():
                for answers, model in zip(said, models, strict=True):
                    answers.setdefault(name, []).append(model.predict(images, context).probabilities)
            bar.update(len(where))
    labels = photos.labels[picked]
    return [_judged({name: np.concatenate(parts) for name, parts in answers.items()}, labels) for answers in said]


def _judged(answers: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    held = {
        test: same_answer(answers["as it is"], answers[test]) for test in ("flip", "shift", "jpeg") if test in answers
    }
    if "more" in answers:
        held["context"] = not_less_likely(answers["less"], answers["more"], labels, tolerance=TOLERANCE)
    return held


def _questions(
    photos: _Photos, where: NDArray[np.intp], behaviour: Behaviour, tellers: "tuple[Context, Context] | None"
) -> dict[str, Question]:
    """What each model is asked about some photos: as they are, changed, and with other senders."""
    images, context, names = photos.images(where), photos.context[where], photos.data.context_names
    changed: dict[str, Images] = {}
    if behaviour.flip:
        changed["flip"] = images[:, :, ::-1]
    if behaviour.shift:
        changed["shift"] = moved(images, behaviour.shift, seeds=where)
    if behaviour.jpeg:
        changed["jpeg"] = resaved(images, behaviour.jpeg)
    asked = {test: (pixels, _described(pixels, context, names)) for test, pixels in changed.items()}
    if tellers is not None:
        asked |= {name: (images, told[where]) for name, told in zip(("less", "more"), tellers, strict=True)}
    return {"as it is": (images, context), **asked}


def moved(images: Images, share: float, *, seeds: NDArray[np.intp]) -> Images:
    """Images [N, S, S, 3] moved by a share of their side, at least a pixel; the pixels at the edge are repeated.

    Each goes one of eight ways, by its own number in `seeds`.
    """
    side = images.shape[1]
    step = max(1, round(share * side))
    ways = [(down, right) for down in (-step, 0, step) for right in (-step, 0, step) if down or right]
    padded = np.pad(images, ((0, 0), (step, step), (step, step), (0, 0)), mode="edge")
    out = np.empty_like(images)
    for i, seed in enumerate(seeds):
        down, right = ways[int(np.random.default_rng([SEED, int(seed)]).integers(len(ways)))]
        out[i] = padded[i, step - down : step - down + side, step - right : step - right + side]
    return out


def resaved(images: Images, quality: int) -> Images:
    """Images [N, S, S, 3] after they were saved as JPEG once."""
    out = np.empty_like(images)
    for i, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as opened:
            out[i] = np.asarray(opened)
    return out


def _described(images: Images, context: Context, names: Sequence[str]) -> Context:
    """The context of changed photos: what it says of the picture is said of the changed one."""
    described = [name for name in STATS if name in names and name != "aspect"]  # the photo's own shape stays
    if not described:
        return context
    changed = context.copy()
    columns = [names.index(name) for name in described]
    for i, image in enumerate(images):
        stats = picture_stats(image, width=1, height=1)
        changed[i, columns] = [stats[name] for name in described]
    return changed


def _tellers(photos: _Photos) -> tuple[Context, Context] | None:
    """The photos' contexts, sent by someone who favours another class, and by someone who favours theirs.

    Both senders have sent as much as senders in training usually have. None where the context knows no classes, or
    training no senders.
    """
    data, labels, names = photos.data, photos.labels, photos.data.context_names
    wanted = ["log_photos", "label_share", *(f"mix_{name}" for name in data.classes)]
    if not set(wanted) <= set(names):
        return None
    columns = [names.index(name) for name in wanted]
    train = data.split("train").context[:, columns]
    known = train[train[:, 0] > 0]
    classes = len(data.classes)
    favour = float(np.quantile(known[:, 2:].max(axis=1), FAVOUR)) if len(known) else 0.0
    if favour <= 1 / classes:
        return None
    other = (labels + np.random.default_rng(SEED).integers(1, classes, len(labels))) % classes
    told = []
    for favourite in (other, labels):
        context = photos.context.copy()
        context[:, columns[:2]] = np.median(known[:, :2], axis=0)
        context[:, columns[2:]] = (1 - favour) / (classes - 1)
        context[np.arange(len(labels)), np.asarray(columns[2:])[favourite]] = favour
        told.append(context)
    return told[0], told[1]


# ------------------------------------------------------------------------------------------------- the minimum


def _floor(
    photos: _Photos, contender: Side, opponent: Side, behaviour: Behaviour, gates: Gates, paired: Paired | None
) -> BehaviourRow | None:
    if not behaviour.class_floor:
        return None
    known = (None, None) if paired is None else (paired.contender, paired.opponent)
    ours, theirs = (
        None if side.model is None else _right(photos, side.model, answers)
        for side, answers in zip((contender, opponent), known, strict=True)
    )
    if ours is None:
        return None
    return class_floor(
        ours,
        theirs,
        photos.labels,
        photos.senders,
        photos.data.classes,
        floor=behaviour.class_floor,
        min_rows=gates.slice_min_rows,
        confidence=gates.confidence,
        opponent=opponent.kind,
    )


def _right(photos: _Photos, model: Model, answers: NDArray[np.floating] | None) -> NDArray[np.bool_]:
    if answers is None:
        parts = [
            model.predict(images, context).probabilities
            for name in PARTS
            for images, context, _ in photos.data.split(name).batches(BATCH)
        ]
        answers = np.concatenate(parts)
    return answers.argmax(axis=1) == photos.labels
