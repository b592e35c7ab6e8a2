"""A judgement in plain words and numbers: what the version's page and the report both say, each in its own markup.

Nothing here is escaped: labels, senders and candidates are other people's text, and each markup escapes for itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from monitoring.slices import slice_row
from monitoring.standing import Standing, standings
from pipelines.models.judgement import opponent_name

Evidence = Mapping[str, Any]

METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1", "log_loss": "log loss", "ece": "calibration error"}
PARTS = {
    "golden": "frozen, and never trained on",
    "fresh": "the last days, never trained on",
    "drifted": "those fresh ones since the drift began",
    "pooled": "golden and fresh together",
}
BEHAVIOUR = {
    "flip": "mirrored",
    "shift": "moved a little",
    "jpeg": "saved as a coarse JPEG",
    "context": "sender's history",
    "class_floor": "weakest class",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricLine:
    """One metric on one part of the rows, as text."""

    part: str
    about: str
    """What the part is, with its size; the same in all its lines."""
    metric: str
    contender: str
    opponent: str
    gain: str
    low: str
    high: str
    better: bool
    """The whole interval lies above 0."""
    worse: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RatioLine:
    """One guardrail, as text."""

    gate: str
    contender: str
    opponent: str
    factor: str
    allowed: str
    outcome: str
    """pass, fail or unknown; "not asked" where no gate looked at it, as against a baseline."""


# ------------------------------------------------------------------------------------------------ who


def headline(evidence: Evidence) -> str:
    """The verdict as what it means for production."""
    contender = f"version {evidence['contender']['version']} ({evidence['contender']['candidate']})"
    champion = evidence["champion_version"]
    step = f"replace version {champion}" if champion else "go into production"
    return {
        "PROMOTE": f"{contender} is good enough to {step}",
        "HOLD": f"{contender} should not {step}",
        "INSUFFICIENT DATA": f"the rows cannot tell whether {contender} should {step}",
    }[evidence["verdict"]]


def judged_on(evidence: Evidence) -> str:
    """Against whom, and on how much."""
    pooled = evidence["comparisons"]["pooled"]
    rows = f"{pooled['rows']:,} photos of {pooled['senders']:,} senders" if pooled else "no photos"
    return f"Judged against {opponent_name(evidence['opponent'])} on {rows} that neither was trained on."


# -------------------------------------------------------------------------------------------- numbers


def metric_lines(evidence: Evidence) -> list[MetricLine]:
    """Every metric on every part that has rows."""
    return [
        MetricLine(
            part=part,
            about=f"{found['rows']:,} photos of {found['senders']:,} senders; {PARTS[part]}",
            metric=words,
            contender=f"{found['contender'][name]:.3f}",
            opponent=f"{found['opponent'][name]:.3f}",
            gain=signed(difference["gain"]),
            low=signed(difference["low"]),
            high=signed(difference["high"]),
            better=difference["low"] > 0,
            worse=difference["high"] < 0,
        )
        for part, found in evidence["comparisons"].items()
        if found is not None
        for name, words in METRICS.items()
        for difference in (found["differences"][name],)
    ]


def signed(value: float) -> str:
    """Three decimals with a sign, and a real minus."""
    return f"{value:+.3f}".replace("-", "−")


def ratio_lines(evidence: Evidence) -> list[RatioLine]:
    """Latency, size and cost of both, and how much more is allowed."""
    outcomes = {found["gate"]: found["outcome"] for found in evidence["findings"]}
    lines = []
    for ratio in evidence["ratios"]:
        factor = f"{ratio['contender'] / ratio['opponent']:.2f}" if ratio["opponent"] else "?"
        bound = f"{ratio['high']:.2f}"
        lines.append(
            RatioLine(
                gate=ratio["gate"],
                contender=amount(ratio["contender"], ratio["unit"]),
                opponent=amount(ratio["opponent"], ratio["unit"]),
                factor=factor if bound == factor else f"{factor} (at most {bound})",
                allowed=f"{evidence['gates'][ratio['gate'] + '_factor']:g}",
                outcome=outcomes.get(ratio["gate"], "not asked"),
            )
        )
    return lines


def amount(value: float, unit: str) -> str:
    """A number with its unit, in a size that is read at a glance."""
    if unit == "bytes":
        for name, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
            if value >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:.0f} bytes"
    if unit == "s":
        return duration(value)
    return f"{value:.2f} {unit}"


def duration(seconds: float) -> str:
    """Such as `41 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


# --------------------------------------------------------------------------------------------- slices


def slice_rows(evidence: Evidence) -> list[tuple[Mapping[str, Any], Standing]]:
    """Each slice with the word for how it stands."""
    rows = evidence["slices"]
    found = standings([slice_row(row) for row in rows], evidence["gates"]["confidence"])
    return list(zip(rows, found, strict=True))


def slices_by_standing(evidence: Evidence) -> dict[Standing, list[Mapping[str, Any]]]:
    """The slices of each standing, the largest difference first."""
    groups: dict[Standing, list[Mapping[str, Any]]] = {name: [] for name in get_args(Standing)}
    for row, standing in slice_rows(evidence):
        groups[standing].append(row)
    for rows in groups.values():
        rows.sort(key=lambda row: -abs(row["difference"]))
    return groups


def too_small(evidence: Evidence) -> list[Mapping[str, Any]]:
    """Slices with too few photos to be judged, the largest first."""
    rows = [
        row for row in slices_by_standing(evidence)["unjudged"] if row["rows"] < evidence["gates"]["slice_min_rows"]
    ]
    return sorted(rows, key=lambda row: -row["rows"])


# ------------------------------------------------------------------------------------------- and so on


def seeds(evidence: Evidence) -> str | None:
    """What the candidate gains on the average over its seeds; None where one seed was fitted."""
    found = evidence["seeds"]
    if not found:
        return None
    metric = METRICS[evidence["gates"]["metric"]]
    return (
        f"{len(found['runs'])} seeds gain {signed(found['gain'])} {metric} on the average "
        f"({signed(found['low'])} to {signed(found['high'])}): "
        + ", ".join(f"{signed(run['gain'])} (seed {run['seed']})" for run in found["runs"])
    )


def golden_uses(evidence: Evidence) -> str | None:
    """How worn the golden rows are."""
    golden = evidence["golden"]
    if not golden or not golden["rows"]:
        return None
    times = "for the first time" if golden["uses"] == 1 else f"{golden['uses']} times, this one included"
    return f"These {golden['rows']:,} golden rows were judged on {times}"


def data(evidence: Evidence) -> list[tuple[str, str]]:
    """The data it came from: name, value."""
    snapshot = evidence["snapshot"]
    lines = [
        ("snapshot", snapshot["id"]),
        ("known as of", moment(snapshot["as_of"])),
        ("rows", ", ".join(f"{count:,} {name}" for name, count in snapshot["counts"].items())),
        ("image partitions", f"{len(snapshot['partitions']):,}"),
        ("feature service", f"{snapshot['service']} ({snapshot['service_hash'][:12]})"),
        ("test rows", f"SHA-256 {snapshot['test_rows_sha256'][:12]}"),
    ]
    if snapshot["drift_from"]:
        lines.append(("drift since", moment(snapshot["drift_from"])))
    return lines


def code(evidence: Evidence) -> list[tuple[str, str]]:
    """The code and the recipe it came from: name, value."""
    facts = evidence["contender"]["facts"]
    lines = [
        ("git commit", facts["git_commit"]),
        ("recipe", f"{evidence['recipe']} ({evidence['recipe_hash'][:12]})"),
        ("candidate", f"{evidence['contender']['candidate']} ({evidence['contender']['model']})"),
        ("seed", facts["seed"]),
        ("made by", facts["created_by"]),
        ("run key", evidence["run_key"]),
    ]
    return [(name, str(value)) for name, value in lines if value is not None]


def training(evidence: Evidence) -> list[tuple[str, str]]:
    """Time and cost to train, and what came out: name, value."""
    facts = evidence["contender"]["facts"]
    lines = []
    if facts["train_seconds"] is not None:
        lines.append(("time to train", duration(facts["train_seconds"])))
    if facts["train_cost"] is not None:
        lines.append(("cost to train", amount(facts["train_cost"], facts["currency"])))
    else:
        lines.append(("cost to train", "not counted (budget.price_per_hour is 0)"))
    if facts["package_bytes"] is not None:
        lines.append(("package", amount(facts["package_bytes"], "bytes")))
    if facts["parameters"] is not None:
        lines.append(("parameters", f"{facts['parameters']:,}"))
    return lines


def moment(text: str) -> str:
    """A time without what is zero in it."""
    found = datetime.fromisoformat(text)
    if len(text) <= len("2026-03-05") or (found.hour, found.minute, found.second) == (0, 0, 0):
        return found.date().isoformat()
    return f"{found:%Y-%m-%d %H:%M}"


def approval(evidence: Evidence) -> list[str]:
    """What a person has to do now, as steps; words in backticks are to be typed as they are."""
    if evidence["verdict"] != "PROMOTE":
        return ["Nothing is asked of you: without the verdict PROMOTE nothing goes into production."]
    if not evidence["gates"]["approval"]:
        return ["Nothing is asked of you: the recipe promotes on this verdict (`gates.approval` is off)."]
    return [
        "On the version's page in MLflow, add two tags: `approval` = `approved` or `rejected`, and `approval_by` = "
        "your name. A third, `approval_note`, may say why.",
        "Or answer in Airflow, under Required Actions.",
    ]
