"""A canary's trial: the verdict on what both arms answered, and the record of it that stays."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from monitoring import arms, ledger
from monitoring.canary import Arm, Rules, Ruling, judge
from monitoring.stores import Store
from pipelines import files
from pipelines.models.fitness import data_time
from pipelines.recipe import Recipe
from pipelines.settings import Settings

ACTOR = "classy canary"
"""Who acts where the recipe lets the judge act by itself."""
FILE = "evidence.json"


def days_of(trial: Sequence[ledger.Row], as_of: datetime) -> float:
    """How long the canary has run."""
    return max((as_of - trial[0]["created_at"]).total_seconds() / 86400, 0.0)


def rule(recipe: Recipe, store: Store, trial: Sequence[ledger.Row], as_of: datetime) -> Ruling:
    """The verdict on a canary's generations (`monitoring.ledger.trial`), by the labels known at `as_of`."""
    numbers, given = [row["generation"] for row in trial], recipe.serving.canary.model_dump()
    champion, canary = (
        Arm(answers=arms.answers(store, numbers, name, as_of=as_of), minutes=arms.minutes(store, numbers, name))
        for name in ("champion", trial[-1]["canary_name"])
    )
    rules = Rules(**{name: given[name] for name in Rules.__dataclass_fields__})
    return judge(champion, canary, days=days_of(trial, as_of), rules=rules)


def record(
    settings: Settings, recipe: Recipe, store: Store, trial: Sequence[ledger.Row], ruling: Ruling, as_of: datetime
) -> tuple[str, str]:
    """Write one row of `decisions` a verdict and canary, with what it rests on beside it; the first one stays.

    Returns:
        The decision's key, and the URI of its evidence.
    """
    key = f"canary-{trial[0]['generation']}-{ruling.verdict.lower()}"
    uri = files.join(settings.data_root, "canary", key)
    if files.read_manifest(uri) is None:
        text = json.dumps(
            {
                "format": 1,
                "verdict": ruling.verdict,
                "reason": ruling.reason,
                "findings": [asdict(finding) for finding in ruling.findings],
                "champion_version": trial[-1]["champion_version"],
                "canary_version": trial[-1]["canary_version"],
                "canary_name": trial[-1]["canary_name"],
                "generations": [row["generation"] for row in trial],
                "days": days_of(trial, as_of),
                "as_of": as_of.isoformat(),
                "rules": recipe.serving.canary.model_dump(),
            },
            indent=1,
        )
        with files.new_partition(uri) as draft:
            (draft.folder / FILE).write_text(text)
    evidence_uri = files.join(uri, FILE)
    store.record_decision(
        {
            "decision_key": key,
            "kind": "canary",
            "action": ruling.verdict,
            "reason": ruling.reason,
            "run_key": None,
            "evidence_uri": evidence_uri,
            "evidence_hash": files.need_manifest(uri, "canary judge")["files"][FILE]["sha256"],
            "actor": ACTOR,
            # Not the clock's time: in a replay, data is far behind it, and a rollback counts from the newest decision.
            "as_of": data_time(store, trial),
            "created_at": datetime.now(UTC),
        }
    )
    return key, evidence_uri
