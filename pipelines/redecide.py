"""Make every recorded decision of the monitor again from the evidence it keeps.

    classy redecide                              do they come out the same?
    classy redecide --set min_loss=0.1           which would be others under other rules?

Nothing is written. Each decision is made on its own: what would have followed from another one is not played on.
"""

from dataclasses import dataclass, fields
from typing import Any

from monitoring.policy import Rules, decide
from monitoring.stores import open_store
from monitoring.weighing import restored
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.sections import Policy
from pipelines.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Redecided:
    decisions: int
    """That keep their evidence; older ones do not."""
    same: bool
    differences: list[dict[str, Any]]
    """day, recorded, now, reason."""


def run(settings: Settings, recipe: Recipe, *, changes: dict[str, Any] | None = None) -> Redecided:
    """Decide again.

    Args:
        changes: fields of `[policy]` that are to be others than they were then.

    Raises:
        ClassyError: there is no such field, or it cannot have that value.
    """
    rows = [row for row in open_store(settings.database_url).decisions("monitor") if row["evidence"]]
    differences = []
    for row in rows:
        evidence, rules = restored(row["evidence"])
        found = decide(evidence, changed(rules, changes or {}))
        # Other rules say other sentences; what counts then is what would be done.
        same = found.action == row["action"] and (bool(changes) or found.reason == row["reason"])
        if not same:
            differences.append(
                {"day": str(evidence.day), "recorded": row["action"], "now": found.action, "reason": found.reason}
            )
    return Redecided(decisions=len(rows), same=not differences, differences=differences)


def changed(rules: Rules, changes: dict[str, Any]) -> Rules:
    """Rules with other values, checked as a recipe's are.

    Raises:
        ClassyError: no such field, or not such a value.
    """
    known = [field.name for field in fields(Rules)]
    if unknown := sorted(set(changes) - set(known)):
        raise ClassyError(f"--set {unknown[0]}: is no field of [policy]; {', '.join(known)} are")
    try:
        return Rules(**Policy(**{**{name: getattr(rules, name) for name in known}, **changes}).model_dump())
    except ValueError as error:
        raise ClassyError(f"--set: {error}") from None
