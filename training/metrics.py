"""How good predictions are, in numpy. Probabilities are [N, C], labels [N] are positions of classes."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Labels = NDArray[np.integer]


def accuracy(probabilities: Floats, labels: Labels) -> float:
    """Share of rows whose most probable class is the true one."""
    _check(probabilities, labels)
    return float((probabilities.argmax(axis=1) == labels).mean())


def macro_f1(probabilities: Floats, labels: Labels) -> float:
    """Mean over the classes that occur in `labels` of F1; a class that is never right counts as 0.

    Classes without a true row are left out: nothing can be said about them.
    """
    _check(probabilities, labels)
    width = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    right = np.bincount(labels[predicted == labels], minlength=width)
    said = np.bincount(predicted, minlength=width)
    true = np.bincount(labels, minlength=width)
    f1 = 2 * right / np.maximum(said + true, 1)
    return float(f1[true > 0].mean())


def log_loss(probabilities: Floats, labels: Labels) -> float:
    """Mean of -log of the true class's probability, in nats; probabilities are clipped at 1e-7."""
    _check(probabilities, labels)
    return float(-np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-7, 1)).mean())


def calibration_error(probabilities: Floats, labels: Labels, bins: int = 15) -> float:
    """Expected calibration error of the predicted class (Guo et al. 2017): mean gap of confidence and accuracy
    over `bins` equal ranges of confidence, weighted by their rows."""
    _check(probabilities, labels)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    where = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(where, weights=confidence - right, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def summary(probabilities: Floats, labels: Labels) -> dict[str, float]:
    """accuracy, macro_f1, log_loss and ece of the same rows."""
    return {
        "accuracy": accuracy(probabilities, labels),
        "macro_f1": macro_f1(probabilities, labels),
        "log_loss": log_loss(probabilities, labels),
        "ece": calibration_error(probabilities, labels),
    }


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities [N, C] in the logits' own precision."""
    scaled = logits / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def _check(probabilities: Floats, labels: Labels) -> None:
    if probabilities.ndim != 2 or len(probabilities) != len(labels) or not len(labels):
        raise ValueError(f"probabilities {probabilities.shape} and labels {labels.shape}: [N, C] and [N], N > 0")
