"""The baseline: scikit-learn's logistic regression on a small picture and the context, as a torch module.

Fitted in a second, and packaged like any network, so that there is something to beat before there is a champion.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from training.data import Split
from training.models import Classifier, ModelSpec, build, pixel_statistics

UNSEEN_LOGIT = -20.0
"""Bias of a class without a training row."""
ITERATIONS = 2000


def fit_baseline(
    spec: ModelSpec,
    train: Split,
    *,
    c: float,
    seed: int,
    recent_weight: float = 1.0,
    recent_since: str | None = None,
    batch: int = 512,
) -> Classifier:
    """Fit on the rows of `train`; the module gives the same logits as scikit-learn's model.

    Args:
        c: inverse of the regularisation.
        recent_weight: how much more a row captured since `recent_since` (ISO 8601, UTC) weighs than another. The mean
            weight is 1, so that `c` means the same.

    Raises:
        ValueError: fewer than two classes have rows.
    """
    model = build(spec).eval()
    standardise(model, train, batch=batch)
    rows = np.concatenate([_features(model, images, context) for images, context, _ in train.batches(batch)])
    if len(np.unique(train.labels)) < 2:
        raise ValueError(f"training rows of one class only, {len(train)} of them: nothing to tell apart")
    weights = np.where(train.since(recent_since), recent_weight, 1.0)
    # Its matrices are small: BLAS threads would wait for each other most of the time.
    with threadpool_limits(1, user_api="blas"):
        regression = LogisticRegression(C=c, max_iter=ITERATIONS, random_state=seed)
        regression.fit(rows, train.labels, sample_weight=weights / weights.mean())
    weight = np.zeros((spec.classes, rows.shape[1]), np.float32)
    bias = np.full(spec.classes, UNSEEN_LOGIT, np.float32)
    if len(regression.classes_) == 2:
        # scikit-learn keeps one row for two classes; half of it each way is the same softmax.
        weight[regression.classes_] = np.stack([-regression.coef_[0], regression.coef_[0]]) / 2
        bias[regression.classes_] = np.array([-regression.intercept_[0], regression.intercept_[0]]) / 2
    else:
        weight[regression.classes_] = regression.coef_
        bias[regression.classes_] = regression.intercept_
    layer = model.head.classes
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return model


def _features(model: Classifier, images: NDArray[np.uint8], context: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        picture = model.body(model.pixels(torch.tensor(images)))
        return torch.cat([picture, model.known(torch.tensor(context))], dim=1).numpy()


def standardise(model: Classifier, train: Split, *, pixels: bool = True, batch: int = 512, most: int = 4096) -> None:
    """Put the training rows' statistics into the module's buffers.

    Args:
        pixels: False keeps the colour statistics that published weights came with. Those of a Caffe-style network are
            always kept.
        most: images that are looked at, evenly over the split.
    """
    if pixels and not model.caffe:
        sample = np.unique(np.linspace(0, len(train) - 1, min(len(train), most)).astype(int))
        parts = [pixel_statistics(train.images[part]) for part in np.array_split(sample, max(1, len(sample) // batch))]
        means = np.array([mean for mean, _ in parts])
        squares = np.array([np.square(std) + np.square(mean) for mean, std in parts])
        mean = means.mean(axis=0)
        model.set_pixels(mean.tolist(), np.sqrt(np.maximum(squares.mean(axis=0) - mean**2, 0)).tolist())
    model.set_context(train.context.mean(axis=0, dtype=np.float64), train.context.std(axis=0, dtype=np.float64))
