"""What a verdict rests on: one document a judgement, kept with its hash so that it can be shown a year later."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import fsspec

from monitoring.stores import Store
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


def of_run(store: Store, run_id: str) -> dict[str, Any] | None:
    """The newest row of `decisions` in which a run's model was judged, or None. Gone evidence is passed over."""
    for row in reversed(store.decisions("judge")):
        try:
            found = of_decision(row)
        except ClassyError:
            continue
        if found["contender"]["run_id"] == run_id:
            return row
    return None


# ------------------------------------------------------------------------------------------- for a reader


def flat_metrics(evidence: Mapping[str, Any]) -> dict[str, float]:
    """The numbers as one flat dict, such as `fresh_accuracy`, `fresh_opponent_accuracy`, `golden_difference_low`.

    `PART_difference` is the gain of accuracy, `PART_METRIC_gain` that of the others; a gain above 0 is for the
    contender in each of them.
    """
    found: dict[str, float] = {}
    for part, comparison in evidence["comparisons"].items():
        if comparison is not None:
            found |= _of_part(part, comparison)
    for ratio in evidence["ratios"]:
        name = "latency_ms" if ratio["gate"] == "latency" else ratio["gate"]
        found[f"{name}_contender"] = ratio["contender"]
        found[f"{name}_opponent"] = ratio["opponent"]
        found[f"{ratio['gate']}_factor_high"] = ratio["high"]
    for row in evidence["behaviour"]:
        found[f"behaviour_{row['test']}"] = row["contender"]
    if evidence["seeds"]:
        found |= {f"seeds_{name}": evidence["seeds"][name] for name in ("gain", "low", "high")}
    return found


def _of_part(part: str, comparison: Mapping[str, Any]) -> dict[str, float]:
    found = {f"{part}_rows": comparison["rows"], f"{part}_p_value": comparison["p_value"]}
    for name, difference in comparison["differences"].items():
        found[f"{part}_{name}"] = comparison["contender"][name]
        found[f"{part}_opponent_{name}"] = comparison["opponent"][name]
        gain = f"{part}_difference" if name == "accuracy" else f"{part}_{name}_gain"
        found |= {gain: difference["gain"], f"{gain}_low": difference["low"], f"{gain}_high": difference["high"]}
    return found


def opponent_name(opponent: Mapping[str, Any]) -> str:
    """Such as `champion (version 3)`, `baseline (logistic)` or `guessing the commonest class`."""
    if opponent["kind"] == "guess":
        return "guessing the commonest class"
    if opponent["kind"] == "champion":
        return f"champion (version {opponent['version']})"
    return "baseline" if opponent["candidate"] == "baseline" else f"baseline ({opponent['candidate']})"
