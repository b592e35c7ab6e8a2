"""One number that makes confidences honest: the temperature (Guo et al. 2017)."""

import numpy as np
from scipy.optimize import minimize_scalar

from training.metrics import Floats, Labels, log_loss, softmax

RANGE = (0.05, 20.0)


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """The T for which softmax(logits / T) has the least log loss on these rows, within 0.05 to 20.

    Classes keep their order, so accuracy does not change. Rows must not be training rows.
    """
    exact = logits.astype(np.float64)
    found = minimize_scalar(
        lambda log_t: log_loss(softmax(exact, float(np.exp(log_t))), labels),
        bounds=(float(np.log(RANGE[0])), float(np.log(RANGE[1]))),
        method="bounded",
    )
    return float(np.exp(found.x))
