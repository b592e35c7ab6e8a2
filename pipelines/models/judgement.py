"""What a verdict rests on: one document a judgement, kept with its hash so that it can be shown a year later."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import fsspec

from pipelines import files
from pipelines.errors import ClassyError
from pipelines.settings import Settings

FILE = "evidence.json"
RUN_KEY = re.compile(r"[\w.:+@=~-]{1,120}")


def folder_of(settings: Settings, run_key: str) -> str:
    """URI of the partition with a judgement's evidence and pictures.

    Raises:
        ClassyError: the run key cannot name a folder.
    """
    if not RUN_KEY.fullmatch(run_key):
        raise ClassyError(f"run key {run_key!r}: use at most 120 letters, digits and _ . : + @ = ~ -")
    return files.join(settings.data_root, "judge", run_key)


def read(uri: str, sha256: str | None) -> dict[str, Any]:
    """The evidence at `uri`, as it was when it was judged.

    Raises:
        ClassyError: it is gone, or its SHA-256 is not the recorded one.
    """
    fs, path = fsspec.url_to_fs(uri)
    try:
        data = fs.cat_file(path)
    except FileNotFoundError:
        raise ClassyError(f"{uri}: the evidence is gone; restore it, or judge again under a new run key") from None
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise ClassyError(
            f"{uri}: SHA-256 is {found}, the decision recorded {sha256}: the evidence was changed after the verdict. "
            "Restore it, or judge again under a new run key"
        )
    return json.loads(data)


def of_decision(row: Mapping[str, Any]) -> dict[str, Any]:
    """The evidence of a row of `decisions` or `deployments`."""
    return read(row["evidence_uri"], row["evidence_hash"])


# ------------------------------------------------------------------------------------------- for a reader


def flat_metrics(evidence: Mapping[str, Any]) -> dict[str, float]:
    """The numbers as one flat dict, such as `fresh_accuracy`, `fresh_opponent_accuracy`, `golden_difference_low`."""
    found: dict[str, float] = {}
    for part, comparison in evidence["comparisons"].items():
        if comparison is None:
            continue
        for name in ("accuracy", "macro_f1", "log_loss", "ece"):
            found[f"{part}_{name}"] = comparison["contender"][name]
            found[f"{part}_opponent_{name}"] = comparison["opponent"][name]
            prefix = f"{part}_difference" if name == "accuracy" else f"{part}_{name}_gain"
            difference = comparison["differences"][name]
            found |= {prefix: difference["gain"], f"{prefix}_low": difference["low"], f"{prefix}_high": difference["high"]}
        found[f"{part}_rows"] = comparison["rows"]
        found[f"{part}_p_value"] = comparison["p_value"]
    for ratio in evidence["ratios"]:
        name = "latency_ms" if ratio["gate"] == "latency" else ratio["gate"]
        found |= {f"{name}_contender": ratio["contender"], f"{name}_opponent": ratio["opponent"]}
    return found


def opponent_name(opponent: Mapping[str, Any]) -> str:
    """Such as `champion (version 3)`, `baseline (logistic)` or `guessing the commonest class`."""
    if opponent["kind"] == "guess":
        return "guessing the commonest class"
    if opponent["kind"] == "champion":
        return f"champion (version {opponent['version']})"
    return "baseline" if opponent["candidate"] == "baseline" else f"baseline ({opponent['candidate']})"


def markdown(evidence: Mapping[str, Any]) -> str:
    """The page of a model version: all that a reviewer needs to decide."""
    contender, opponent = evidence["contender"], opponent_name(evidence["opponent"])
    snapshot = evidence["snapshot"]
    lines = [
        f"## {evidence['verdict']}: {contender['candidate']} against {opponent}",
        "",
        *(f"- {reason}" for reason in evidence["reasons"]),
        "",
        *_table(evidence, opponent),
        "",
        *_slices(evidence),
        f"**Data**: snapshot `{snapshot['id']}` as of {snapshot['as_of']}, "
        + ", ".join(f"{count:,} {name}" for name, count in snapshot["counts"].items())
        + f" rows; recipe {evidence['recipe']} (`{evidence['recipe_hash']}`).",
        "",
        f"**Run**: {contender['run_url']} (pictures, slices and evidence.json under `judge/`), "
        f"run key `{evidence['run_key']}`.",
    ]
    return "\n".join(lines)


def _table(evidence: Mapping[str, Any], opponent: str) -> list[str]:
    lines = [f"| rows | metric | contender | {opponent} | difference |", "|---|---|---:|---:|---:|"]
    for part, found in evidence["comparisons"].items():
        if found is None:
            continue
        for name, words in (
            ("accuracy", "accuracy"),
            ("macro_f1", "macro-F1"),
            ("log_loss", "log loss"),
            ("ece", "ECE"),
        ):
            ours, theirs = found["contender"][name], found["opponent"][name]
            sure = f" ({found['low']:+.3f} to {found['high']:+.3f})" if name == "accuracy" else ""
            where = f"{part} ({found['rows']})" if name == "accuracy" else ""
            lines.append(f"| {where} | {words} | {ours:.3f} | {theirs:.3f} | {ours - theirs:+.3f}{sure} |")
    latency = evidence["latency_ms"]
    if latency["contender"] is not None:
        other = f"{latency['opponent']:.2f}" if latency["opponent"] is not None else "–"
        lines.append(f"| one photo | median ms | {latency['contender']:.2f} | {other} | |")
    return lines


def _slices(evidence: Mapping[str, Any]) -> list[str]:
    won = [f"{row['column']} {row['value']} ({row['difference']:+.3f})" for row in evidence["slices"] if row["low"] > 0]
    lost = [
        f"{row['column']} {row['value']} ({row['difference']:+.3f})" for row in evidence["slices"] if row["high"] < 0
    ]
    return [f"**Slices won**: {', '.join(won) or 'none'}. **Lost**: {', '.join(lost) or 'none'}.", ""]
