"""A made-up judgement, whole: the evidence document, the answers behind it and their photos, from one seed.

Its numbers come out of the judge's own statistics; only the answers are drawn.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitoring.comparison import Comparison, Paired, compare
from monitoring.slices import SliceRow, slice_masks, slice_table
from pipelines.review import report as review
from pipelines.review.report import Photos
from pipelines.sections import Gates
from pipelines.settings import Settings, load_settings

DIGITS = tuple("0123456789")
SERVER = "http://mlflow.example:5000"
NASTY = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[here](javascript:alert(1))",
    "a | b *c* _d_ `e` ~~f~~ @who :smile: # 1",
    "https://example.org/?a=1&b=2",
    "www.example.org",
    "{{ 7 * 7 }} {% raw %}",
    "Hose$x^2$",
    "ein sehr langer Name einer Klasse, die niemand in einer Zeile lesen kann, weil sie nicht endet",
    "多色のシャツ",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What `pipelines.review.report` is given."""

    evidence: dict[str, Any]
    paired: Paired
    table: list[SliceRow]
    classes: tuple[str, ...]
    photos: Photos
    read: list[int] = field(default_factory=list)
    """Positions of the photos that were read so far."""


def judged(
    *,
    classes: Sequence[str] = DIGITS,
    golden: int = 300,
    fresh: int = 120,
    senders: int = 24,
    contender: float = 0.92,
    opponent: float = 0.82,
    verdict: str = "PROMOTE",
    kind: str = "champion",
    size: int = 16,
    sender_prefix: str = "sender",
    seed: int = 5,
    run_id: str = "0123456789abcdef0123456789abcdef",
    version: str = "7",
    run_url: str = "",
    gates: Mapping[str, Any] | None = None,
    **changed: Any,
) -> Judged:
    """A judgement on rows of which both models get a planned share right; `changed` are fields of the document."""
    rng, rows = np.random.default_rng(seed), golden + fresh
    asked = Gates(**{"slice_min_rows": 30, **(gates or {})})
    labels = rng.integers(0, len(classes), rows)
    paired = Paired(
        labels=labels,
        contender=_answers(rng, labels, len(classes), contender),
        opponent=_guess(labels, len(classes)) if kind == "guess" else _answers(rng, labels, len(classes), opponent),
        senders=np.array([f"{sender_prefix}-{number}" for number in rng.integers(0, senders, rows)], dtype=np.str_),
    )
    is_fresh = np.arange(rows) >= golden
    drifted = is_fresh & (np.arange(rows) >= golden + fresh // 2)
    masks = slice_masks(paired.labels, classes, paired.senders, is_fresh, numbers={"brightness": rng.random(rows)})
    table = slice_table(paired, masks, confidence=asked.confidence, min_rows=asked.slice_min_rows)
    parts = {"golden": ~is_fresh, "fresh": is_fresh, "drifted": drifted, "pooled": np.ones(rows, bool)}
    comparisons = {name: compare(paired.where(mask), confidence=asked.confidence) for name, mask in parts.items()}
    findings = _findings(verdict, comparisons["fresh"] or comparisons["pooled"])
    evidence = {
        "format": 2,
        "run_key": "2026-03-05",
        "recipe": "tiny",
        "recipe_hash": "0f" * 32,
        "verdict": verdict,
        "reasons": [found["sentence"] for found in findings],
        "findings": findings,
        "gates": asked.model_dump(mode="json"),
        "contender": {**_side("contender", "resnet", version, run_id), "run_url": run_url or f"runs:/{run_id}"},
        "opponent": _opponent(kind),
        "champion_version": "3" if kind == "champion" else None,
        "snapshot": _snapshot(golden, fresh, drift=bool(fresh)),
        "golden": {"hash": "ab" * 32, "rows": golden, "uses": 4},
        "comparisons": {name: asdict(found) if found else None for name, found in comparisons.items()},
        "ratios": [] if kind == "guess" else RATIOS,
        "slices": [asdict(row) for row in table],
        "behaviour": BEHAVIOUR,
        "seeds": SEEDS,
        **changed,
    }
    images = rng.integers(0, 255, (max(rows, 1), size, size, 3), dtype=np.uint8)
    read: list[int] = []

    def of_positions(positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        read.extend(positions.tolist())
        return images[positions]

    ids = np.array([f"image-{number:05d}" for number in range(rows)], dtype=np.str_)
    return Judged(
        # As it comes back from the file.
        evidence=json.loads(json.dumps(evidence, allow_nan=False)),
        paired=paired,
        table=table,
        classes=tuple(classes),
        photos=Photos(image_ids=ids, senders=paired.senders, images=of_positions),
        read=read,
    )


def _answers(rng: np.random.Generator, labels: NDArray[np.int64], classes: int, right: float) -> NDArray[np.float32]:
    rows = len(labels)
    said = np.where(rng.random(rows) < right, labels, (labels + rng.integers(1, classes, rows)) % classes)
    logits = rng.normal(0, 1, (rows, classes))
    logits[np.arange(rows), said] += 3 + rng.gamma(2, 1, rows)
    odds = np.exp(logits)
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def _guess(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    share = np.bincount(labels, minlength=classes) / max(len(labels), 1)
    return np.tile(share.astype(np.float32), (len(labels), 1))


def _side(kind: str, candidate: str, version: str, run_id: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "run_id": run_id,
        "version": version,
        "candidate": candidate,
        "model": "resnet",
        "trained_on": "snap-0a1b2c",
        "val": {"log_loss": 0.31, "accuracy": 0.91},
        "facts": {
            "train_seconds": 203.4,
            "train_cost": 0.17,
            "currency": "EUR",
            "package_bytes": 1_482_000,
            "parameters": 361_242,
            "git_commit": "4f3c2b1a4f3c2b1a4f3c2b1a4f3c2b1a4f3c2b1a",
            "seed": 11,
            "created_by": "classy 0.1.0",
        },
    }


def _opponent(kind: str) -> dict[str, Any]:
    if kind == "guess":
        side = _side(kind, "", "", "")
        return {**side, **dict.fromkeys(("run_id", "version", "candidate", "model", "trained_on", "val"))} | {
            "facts": dict.fromkeys(side["facts"], None) | {"currency": ""}
        }
    version = "3" if kind == "champion" else ""
    side = _side(kind, "resnet" if kind == "champion" else "logistic", version, "fedcba9876543210" * 2)
    return {**side, "version": version or None}


def _snapshot(golden: int, fresh: int, *, drift: bool) -> dict[str, Any]:
    return {
        "id": "snap-0d4e5f",
        "uri": "var/data/snapshots/snap-0d4e5f",
        "as_of": "2026-03-05T00:00:00+00:00",
        "counts": {"train": 1800, "val": 240, "golden": golden, "fresh": fresh},
        "test_rows_sha256": "cd" * 32,
        "drift_from": "2026-03-04" if drift else None,
        "service": "context_v1",
        "service_hash": "12" * 32,
        "partitions": [f"var/data/shards/date=2026-03-0{day}" for day in range(1, 5)],
    }


def _findings(verdict: str, found: Comparison | None) -> list[dict[str, str]]:
    if found is None:
        return [{"gate": "rows", "outcome": "unknown", "sentence": "Too few rows: 0 labelled fresh rows, 50 asked."}]
    seen = f"{found.contender.accuracy:.3f} against {found.opponent.accuracy:.3f}"
    outcome = {"PROMOTE": "pass", "HOLD": "fail", "INSUFFICIENT DATA": "unknown"}[verdict]
    return [
        {"gate": "better", "outcome": outcome, "sentence": f"On fresh rows: accuracy {seen}."},
        {"gate": "not worse", "outcome": "pass", "sentence": "Not worse than the champion on golden rows."},
        {"gate": "latency", "outcome": "pass", "sentence": "Fast enough: 0.84 ms a photo against 0.79 ms (median)."},
        {"gate": "size", "outcome": "pass", "sentence": "Small enough: 1.48 MB against 1.48 MB."},
        {"gate": "cost", "outcome": "fail", "sentence": "Too dear: 0.17 EUR against 0.14 EUR."},
    ]


RATIOS = [
    {"gate": "latency", "contender": 0.84, "opponent": 0.79, "high": 1.11, "unit": "ms"},
    {"gate": "size", "contender": 1_482_000.0, "opponent": 1_482_000.0, "high": 1.0, "unit": "bytes"},
    {"gate": "cost", "contender": 0.17, "opponent": 0.14, "high": 0.17 / 0.14, "unit": "EUR"},
]
BEHAVIOUR = [
    {
        "test": test,
        "contender": share,
        "opponent": other,
        "rows": 200,
        "asked": 0.8,
        "passed": share >= 0.8,
        "sentence": sentence,
    }
    for test, share, other, sentence in (
        ("shift", 0.93, 0.91, "The answer stays on 93% of the photos when they move by 5%."),
        ("jpeg", 0.71, 0.88, "The answer stays on 71% of the photos at JPEG quality 60; 80% asked."),
        ("class_floor", 0.82, None, "The weakest class, 8, is right on 82% of its photos."),
    )
]
SEEDS = {
    "runs": [{"run_id": f"{seed:032x}", "seed": seed, "gain": gain} for seed, gain in ((7, 0.09), (8, 0.1), (9, 0.12))],
    "gain": 0.1033,
    "low": 0.061,
    "high": 0.146,
}


def write(folder: Path, one: Judged) -> Path:
    """The report in a folder, with all that is beside it."""
    review.write(folder, one.evidence, one.paired, one.table, one.classes, one.photos)
    return folder / review.REPORT


def on_server(home: Path, uri: str = SERVER) -> Settings:
    """Settings of somebody who has an MLflow server."""
    return load_settings(home=home, mlflow_uri=uri, actor="tester")
