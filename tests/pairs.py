"""Two models' made-up answers to the same photos."""

from dataclasses import replace

import numpy as np

from monitoring.comparison import Paired

CLASSES = 4


def answers(labels: np.ndarray, accuracy: float, rng: np.random.Generator, *, sure: float = 3.0) -> np.ndarray:
    """Probabilities of a model that is right about this often."""
    right = rng.random(len(labels)) < accuracy
    said = np.where(right, labels, (labels + rng.integers(1, CLASSES, len(labels))) % CLASSES)
    raw = rng.random((len(labels), CLASSES)) + sure * np.eye(CLASSES)[said]
    return (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)


def world(seed: int, *, rows: int = 200, senders: int = 20, contender: float = 0.8, opponent: float = 0.8) -> Paired:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows)
    return Paired(
        labels=labels,
        contender=answers(labels, contender, rng),
        opponent=answers(labels, opponent, rng),
        senders=rng.integers(0, senders, rows).astype(str),
    )


def planned(ours: np.ndarray, theirs: np.ndarray, senders: np.ndarray) -> Paired:
    """Both models sure of themselves, right exactly where `ours` and `theirs` say."""
    labels = np.arange(len(ours)) % CLASSES
    right, wrong = np.eye(CLASSES)[labels], np.eye(CLASSES)[(labels + 1) % CLASSES]
    return Paired(
        labels=labels,
        contender=np.where(ours[:, None], right, wrong),
        opponent=np.where(theirs[:, None], right, wrong),
        senders=senders.astype(str),
    )


def swapped(paired: Paired) -> Paired:
    return replace(paired, contender=paired.opponent, opponent=paired.contender)


def joined(*parts: Paired) -> Paired:
    names = ("labels", "contender", "opponent", "senders")
    return Paired(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
