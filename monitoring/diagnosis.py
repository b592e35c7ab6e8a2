"""What is it that drifted? A classifier that tells window from reference, and the photos it is surest about.

A classifier two-sample test (Lopez-Paz and Oquab 2017): logistic regression on the embedding and the statistics of the
pictures, each photo judged by a model that saw none of its sender's. The area under its ROC curve says how far apart
the sides are (0.5: not at all). It explains a verdict and does not decide one.

Pure: frames in, a finding out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from monitoring.columns import matrix
from monitoring.permutation import Floats

MOST_ROWS = 1_000
"""Rows of one side."""
FOLDS = 4
COMPONENTS = 16
"""Principal components of the embedding that are looked at: time stays bounded, whatever the model's width."""
PENALTY = 0.1
SHOWN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """`auc` of telling window from reference, out of fold. None where that cannot be tried, with its reason.

    `p` is Mann-Whitney's, one-sided; photos count as independent in it, so it is too small where senders are few.
    `photos`: image_id of those of the window that are surest not of the reference, surest first.
    """

    auc: float | None
    p: float | None
    reason: str
    photos: tuple[str, ...]


def diagnose(reference: pd.DataFrame, window: pd.DataFrame, stats: Sequence[str], *, seed: int) -> Diagnosis:
    """Tell window from reference by `stats` and, where both have it, `embedding`; by `source_id` folds are made.

    Args:
        reference: rows the model was not fitted on.
        window: rows of the window, with `image_id`.
        stats: names of picture statistics; those that a side lacks are left out.
        seed: of the rows that are taken where there are more than MOST_ROWS, and of the folds.
    """
    random = np.random.default_rng(seed)
    window, reference = _some(window, random), _some(reference, random)
    pooled = pd.concat([window, reference], ignore_index=True, join="inner")
    names = [name for name in stats if name in pooled]
    pictures = pooled[names].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    embedding = matrix(pooled["embedding"]) if "embedding" in pooled else np.empty((len(pooled), 0))
    whole = np.isfinite(pictures).all(axis=1) & np.isfinite(embedding).all(axis=1)
    if not names and not embedding.shape[1]:
        return _cannot("neither picture statistics nor an embedding on both sides")
    is_window = (np.arange(len(pooled)) < len(window))[whole]
    groups = _groups(pooled)[whole]
    fewest = min(len(np.unique(groups[is_window])), len(np.unique(groups[~is_window])))
    if fewest < FOLDS:
        return _cannot(f"{fewest} senders on a side, fewer than the {FOLDS} that are needed to judge by the others")
    with threadpool_limits(1, user_api="blas"):
        scores = _out_of_fold(pictures[whole], embedding[whole], is_window, groups, seed)
    auc = float(roc_auc_score(is_window, scores))
    p = float(mannwhitneyu(scores[is_window], scores[~is_window], alternative="greater").pvalue)
    surest = pooled["image_id"].to_numpy()[whole][is_window][np.argsort(-scores[is_window], kind="stable")[:SHOWN]]
    said = f"a classifier tells a photo of the window from one of the reference {auc:.0%} of the time (chance: 50%)"
    return Diagnosis(auc=auc, p=p, reason=said, photos=tuple(map(str, surest)))


def _cannot(why: str) -> Diagnosis:
    return Diagnosis(auc=None, p=None, reason=why, photos=())


def _some(frame: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    if len(frame) <= MOST_ROWS:
        return frame
    return frame.iloc[np.sort(random.choice(len(frame), MOST_ROWS, replace=False))]


def _groups(pooled: pd.DataFrame) -> np.ndarray:
    named = pooled["source_id"] if "source_id" in pooled else pooled["image_id"]
    return pd.factorize(named)[0]


def _out_of_fold(pictures: Floats, embedding: Floats, is_window: np.ndarray, groups: np.ndarray, seed: int) -> Floats:
    """The log-odds of "window" of each photo, by the model that saw none of its sender's."""
    scores = np.empty(len(is_window))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed % 2**32)
    for fit, judged in folds.split(pictures, is_window, groups):
        parts = [pictures]
        if embedding.shape[1]:
            # By eigenvalues of the covariance: LAPACK's SVD gives up on some embeddings ("did not converge").
            axes = PCA(min(COMPONENTS, *embedding[fit].shape), svd_solver="covariance_eigh").fit(embedding[fit])
            parts.append(axes.transform(embedding))
        features = np.concatenate(parts, axis=1)
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=200)
        ).fit(features[fit], is_window[fit])
        scores[judged] = model.decision_function(features[judged])
    return scores
