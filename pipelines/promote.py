"""Make a judged contender the champion: one new generation, taken by exactly one promotion.

    classy promote --run-key KEY [--approved-by NAME | --rejected-by NAME] [--note TEXT] [--reason TEXT]

The row in `deployments` is the promotion; the aliases in MLflow follow it. Killed in between, the same
command repairs them. A promotion that comes second is refused where the champion it was judged against
is not the champion any more: its verdict is about another model.

A person may have a word: in the arguments, in the ledger, or by tags on the version in MLflow
(`pipelines/review/approval.py`). A rejection is a verdict, not an error, and stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.tracking import MlflowClient

from monitoring import ledger
from monitoring.stores import LostRace, Store, open_store
from pipelines.errors import ClassyError
from pipelines.lineage.keeping import keep_chain
from pipelines.models import judgement, registry, tracking
from pipelines.models.links import version_url
from pipelines.recipe import Recipe
from pipelines.review import approval
from pipelines.review.approval import Answer, Unclear
from pipelines.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Promoted:
    promoted: bool
    """False: a person rejected the contender, and production is as it was."""
    generation: int | None
    """The one that this run key made, now or before; None where it was rejected."""
    version: str
    """The contender's."""
    changed: bool
    """False where this run key had been promoted before, or was rejected."""
    reason: str
    answer: str | None
    """Who approved or rejected it, where, and the note; None where nobody was asked."""
    version_url: str


def run(
    settings: Settings,
    recipe: Recipe,
    *,
    run_key: str,
    actor: str | None = None,
    reason: str = "",
    approved_by: str | None = None,
    rejected_by: str | None = None,
    note: str = "",
    via: approval.Via = "command",
    needs_approval: bool = False,
) -> Promoted:
    """Promote the contender that was judged under `run_key`, unless a person rejects it.

    Args:
        run_key: of the judgement; promoting it twice changes nothing.
        actor: who does it, for the ledger; default CLASSY_ACTOR.
        reason: why, beside the judge's own reasons.
        approved_by: the person who approves it, recorded as a decision of its own.
        rejected_by: the person who rejects it; likewise.
        note: what that person says.
        via: where that person said it.
        needs_approval: demand an approval even where the recipe does not.

    Raises:
        ClassyError: not judged, the verdict is not PROMOTE, an approval is missing, the tags in MLflow
            cannot be understood, or another champion was promoted since it was judged.
    """
    given = approval.given(approved_by=approved_by, rejected_by=rejected_by, note=note, via=via)
    client, store = tracking.connect(settings), open_store(settings.database_url)
    judged = _need_promote(store, run_key)
    found, made = judgement.of_decision(judged), _made(store, run_key)
    version = found["contender"]["version"]
    answer, late = _hear(client, settings, store, judged, version, given, made)
    if made is None and answer is None and (needs_approval or recipe.gates.approval):
        raise _nobody_answered(settings, run_key, version)
    row, changed = made, False
    if answer is None or answer.action == "APPROVE":
        because = _sentences(reason, found["reasons"][0], _said(answer))
        row, changed = _take(settings, store, judged, found, actor=actor or settings.actor, reason=because)
        registry.project(client, settings, store)
        keep_chain(settings, recipe, row["generation"])
    if answer is not None:
        approval.mark(client, settings, version, answer)
    if row is None:
        why = _said(answer)
    else:
        why = row["reason"] if changed else f"run key {run_key} is generation {row['generation']} already"
    return Promoted(
        promoted=row is not None,
        generation=row["generation"] if row else None,
        version=version,
        changed=changed,
        reason=_sentences(why, late),
        answer=answer.sentence if answer else None,
        version_url=version_url(settings, version),
    )


def _made(store: Store, run_key: str) -> dict[str, Any] | None:
    """The generation that this run key made, if any: a rollback's is not this promotion's."""
    there = store.deployment_of(run_key)
    if there is not None and there["kind"] != "promote":
        raise ClassyError(
            f"run key {run_key}: a {there['kind']} made generation {there['generation']} under it, and a run key makes "
            "one generation; judge the contender again under another: `classy evaluate` with a new --run-key"
        )
    return there


def _need_promote(store: Store, run_key: str) -> dict[str, Any]:
    judged = approval.need_judged(store, run_key)
    if judged["action"] != "PROMOTE":
        raise ClassyError(
            f"run key {run_key}: the verdict is {judged['action']}, so nothing is promoted. {judged['reason']}"
        )
    return judged


def _hear(
    client: MlflowClient,
    settings: Settings,
    store: Store,
    judged: Mapping[str, Any],
    version: str,
    given: Answer | None,
    made: Mapping[str, Any] | None,
) -> tuple[Answer | None, str]:
    """The answer that stays, and a sentence about one that came too late.

    What is in the ledger is first; then what this call was given, then the tags. What is in production (`made`) cannot
    be rejected any more.
    """
    standing, tags = approval.of(store, judged["run_key"]), approval.tagged(client, settings, version)
    if isinstance(tags, Unclear) and standing is None and given is None and made is None:
        raise ClassyError(f"run key {judged['run_key']}: MLflow, version {version}: {tags.problem}")
    heard = [answer for answer in (given, tags) if isinstance(answer, Answer)]
    if standing is None and heard and (made is None or heard[0].action == "APPROVE"):
        standing = approval.record(store, judged, heard[0])
    stays = standing.action if standing else "APPROVE" if made else None
    late = [f"{_said(answer)} (this came later and changes nothing)" for answer in heard if answer.action != stays]
    remedy = "`classy rollback` takes a champion back" if stays == "APPROVE" else "Judge it again under a new run key"
    return standing, _sentences(*late, remedy) if late else ""


def _nobody_answered(settings: Settings, run_key: str, version: str) -> ClassyError:
    return ClassyError(
        f"run key {run_key}: a person must approve version {version}, and nobody answered. Answer in Airflow (Required "
        f"Actions); or by tags on the version in MLflow ({version_url(settings, version)}): {approval.TAG} = approved "
        f"or rejected, {approval.TAG_BY} = your name; or with `classy promote --run-key {run_key} --approved-by NAME` "
        "(or --rejected-by NAME)"
    )


def _said(answer: Answer | None) -> str:
    return f"{answer.sentence[0].upper()}{answer.sentence[1:]}" if answer else ""


def _sentences(*parts: str | None) -> str:
    """The parts that are there, each ended as a sentence."""
    return " ".join(part if part[-1] in ".!?" else f"{part}." for part in parts if part)


def _take(
    settings: Settings, store: Store, judged: Mapping[str, Any], found: Mapping[str, Any], *, actor: str, reason: str
) -> tuple[dict[str, Any], bool]:
    """The generation of this run key, and whether it is new. Tries again while the champion stays the same."""
    run_key = judged["run_key"]
    while True:
        # In this order: a generation that appears after the first look makes the insert below lose.
        current = store.current()
        if (there := _made(store, run_key)) is not None:
            return there, False
        _still_champion(current, found, run_key)
        row = ledger.promotion(
            current,
            ledger.Change(
                actor=actor, reason=reason, run_key=run_key, as_of=judged["as_of"], created_at=datetime.now(UTC)
            ),
            version=found["contender"]["version"],
            run_id=found["contender"]["run_id"],
            evidence_uri=judged["evidence_uri"],
            evidence_hash=judged["evidence_hash"],
        )
        try:
            store.add_generation(row)
        except LostRace:
            continue
        return row, True


def _still_champion(current: Mapping[str, Any] | None, found: Mapping[str, Any], run_key: str) -> None:
    judged_against = found["champion_version"]
    now = current["champion_version"] if current else None
    if now == judged_against:
        return
    before = f"champion version {judged_against}" if judged_against else "no champion"
    assert current is not None  # noqa: S101  generations are never taken away
    raise ClassyError(
        f"run key {run_key} was judged against {before}, but version {now} is the champion since generation "
        f"{current['generation']} ({current['kind']} by {current['actor']}, run key {current['run_key']}). "
        "Judge it again against that one: `classy evaluate` with a new --run-key"
    )
