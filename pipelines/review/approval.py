"""A person's answer to a verdict of PROMOTE: given in Airflow, by tags on the version in MLflow, or by command.

Whichever comes first is written once, as the decision `approval-KEY`, and stays; a later one that differs is said and
changes nothing. MLflow's tags carry neither an author nor a time. So the name is asked for in a tag of its own, and
tags that were taken up are taken off the version: they never answer for a later judgement.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from monitoring.stores import Store, StoreError, open_store
from pipelines.errors import ClassyError
from pipelines.models import judgement, registry, tracking
from pipelines.models.links import version_url
from pipelines.settings import Settings

Action = Literal["APPROVE", "REJECT"]
Via = Literal["airflow", "mlflow", "command"]

TAG, TAG_BY, TAG_NOTE = "approval", "approval_by", "approval_note"
"""What a person sets on the version's page."""
TAKEN, TAKEN_BY, TAKEN_NOTE = "classy.approval", "classy.approval_by", "classy.approval_note"
"""What the version carries when the answer is in the ledger."""
PROBLEM = "classy.approval_problem"
"""Why the tags that are there answer nothing; the page has no other place to say it."""

_SPELLINGS: dict[str, Action] = {
    "approved": "APPROVE", "approve": "APPROVE", "yes": "APPROVE",
    "rejected": "REJECT", "reject": "REJECT", "no": "REJECT",
}  # fmt: skip
_WORDS: dict[Action, str] = {"APPROVE": "approved", "REJECT": "rejected"}
_WHERE: dict[Via, str] = {"airflow": "in Airflow", "mlflow": "by a tag in MLflow", "command": "by command"}
REASONS = 3
"""How many of the judge's sentences a question shows; what decided it comes first, and the version's page has all."""
LONGEST_NAME = 128
"""Characters; more is no name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Who said what, and where."""

    action: Action
    by: str
    note: str = ""
    via: Via | None = "command"
    """None where an old ledger does not tell."""

    @property
    def sentence(self) -> str:
        """Such as `rejected by ada in Airflow: the sevens look wrong`."""
        where = f" {_WHERE[self.via]}" if self.via else ""
        return f"{_WORDS[self.action]} by {self.by}{where}{f': {self.note}' if self.note else ''}"


@dataclass(frozen=True, slots=True)
class Unclear:
    """Tags that are there and answer nothing."""

    problem: str
    """What is wrong, and which tag to change."""


def given(*, approved_by: str | None, rejected_by: str | None, note: str, via: Via) -> Answer | None:
    """The answer in a call's arguments; None where there is none.

    Raises:
        ClassyError: both are given, the name is empty or too long, or a note comes without a name.
    """
    if approved_by is not None and rejected_by is not None:
        raise ClassyError(f"approved by {approved_by!r} and rejected by {rejected_by!r}: give one of the two")
    name = rejected_by if approved_by is None else approved_by
    if name is None:
        if _one_line(note):
            raise ClassyError("a note needs a name: give it with --approved-by NAME or --rejected-by NAME")
        return None
    by = _one_line(name)
    if problem := _name_problem(by):
        raise ClassyError(f"the name of who answered {problem}")
    return Answer(action="APPROVE" if rejected_by is None else "REJECT", by=by, note=_one_line(note), via=via)


def from_tags(tags: Mapping[str, str]) -> Answer | Unclear | None:
    """The answer in a version's tags; None where `approval` is not set."""
    word, by = _one_line(tags.get(TAG, "")), _one_line(tags.get(TAG_BY, ""))
    if not word:
        return None
    action = _SPELLINGS.get(word.casefold())
    if action is None:
        return Unclear(f"tag {TAG} = {word[:40]!r} is neither approved nor rejected; set it to one of the two")
    if not by:
        return Unclear(f"tag {TAG} = {word}, but nobody's name is there; add a tag {TAG_BY} with yours")
    if problem := _name_problem(by):
        return Unclear(f"tag {TAG_BY} {problem}")
    return Answer(action=action, by=by, note=_one_line(tags.get(TAG_NOTE, "")), via="mlflow")


def _name_problem(by: str) -> str:
    if not by:
        return "is empty"
    return f"has {len(by)} characters; a name has at most {LONGEST_NAME}" if len(by) > LONGEST_NAME else ""


def _one_line(text: str) -> str:
    """White space as single blanks, and nothing that a database or a terminal does not show."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


# ------------------------------------------------------------------------------------------------ the ledger


def of(store: Store, run_key: str) -> Answer | None:
    """The answer that the ledger has for this run key."""
    row = store.decision(f"approval-{run_key}")
    return None if row is None else _of_row(row)


def _of_row(row: Mapping[str, Any]) -> Answer:
    for via in _WHERE:
        bare = Answer(action=row["action"], by=row["actor"], via=via)
        if row["reason"] == bare.sentence:
            return bare
        if row["reason"].startswith(start := f"{bare.sentence}: "):
            return Answer(action=row["action"], by=row["actor"], via=via, note=row["reason"].removeprefix(start))
    return Answer(action=row["action"], by=row["actor"], via=None)


def record(store: Store, judged: Mapping[str, Any], answer: Answer) -> Answer:
    """Write an answer to the verdict `judged`, a row of `decisions`; give the one that stays, which is the first."""
    store.record_decision(
        {
            **{name: judged[name] for name in ("run_key", "evidence_uri", "evidence_hash", "as_of")},
            "decision_key": f"approval-{judged['run_key']}",
            "kind": "approval",
            "action": answer.action,
            "reason": answer.sentence,
            "actor": answer.by,
            "created_at": datetime.now(UTC),
        }
    )
    return of(store, judged["run_key"]) or answer


# ----------------------------------------------------------------------------------------------- the version


def tagged(client: MlflowClient, settings: Settings, version: str) -> Answer | Unclear | None:
    """The answer in the tags of a version. Tags that answer nothing get a tag beside them that says why."""
    tags = registry.need_version(client, settings, version).tags
    found = from_tags(tags)
    problem = found.problem if isinstance(found, Unclear) else None
    if problem is not None:
        _put_on(client, settings, version, tags, {PROBLEM: problem})
    else:
        _take_off(client, settings, version, tags, {PROBLEM})
    return found


def mark(client: MlflowClient, settings: Settings, version: str, answer: Answer) -> None:
    """Put the ledger's answer on the version, in place of the tags that a person set. Safe to repeat."""
    wanted = {TAKEN: _WORDS[answer.action], TAKEN_BY: answer.by, **({TAKEN_NOTE: answer.note} if answer.note else {})}
    tags = registry.need_version(client, settings, version).tags
    _put_on(client, settings, version, tags, wanted)
    _take_off(client, settings, version, tags, {TAG, TAG_BY, TAG_NOTE, PROBLEM, TAKEN_NOTE} - set(wanted))


def forget(client: MlflowClient, settings: Settings, version: str) -> None:
    """Take every answer off a version that is judged anew: what was said was about another judgement."""
    tags = registry.need_version(client, settings, version).tags
    _take_off(client, settings, version, tags, {TAG, TAG_BY, TAG_NOTE, PROBLEM, TAKEN, TAKEN_BY, TAKEN_NOTE})


def _put_on(
    client: MlflowClient, settings: Settings, version: str, tags: Mapping[str, str], wanted: Mapping[str, str]
) -> None:
    for key, value in wanted.items():
        if tags.get(key) == value:
            continue
        try:
            client.set_model_version_tag(settings.model_name, version, key, value)
        except MlflowException:
            # MLflow reads, then inserts: of two that write the same at once, the slower one fails, which is no harm.
            if registry.need_version(client, settings, version).tags.get(key) != value:
                raise


def _take_off(
    client: MlflowClient, settings: Settings, version: str, tags: Mapping[str, str], unwanted: set[str]
) -> None:
    for key in sorted(unwanted & set(tags)):
        try:
            client.delete_model_version_tag(settings.model_name, version, key)
        except MlflowException:
            if key in registry.need_version(client, settings, version).tags:
                raise


# -------------------------------------------------------------------------------------------- while one waits


def watch(settings: Settings, run_key: str, version: str) -> Callable[[], tuple[Action, str] | None]:
    """A function that gives what was answered outside Airflow, and a sentence about it; None until somebody did.

    It keeps its connections, and looks at the ledger, at production and at the version's tags.

    Raises:
        ClassyError: here or from the function: the database or MLflow cannot be asked now.
    """
    with _asking(run_key):
        client, store = tracking.connect(settings), open_store(settings.database_url)

    def look() -> tuple[Action, str] | None:
        with _asking(run_key):
            if (answer := of(store, run_key)) is not None:
                return answer.action, answer.sentence
            if (row := store.deployment_of(run_key)) is not None:
                return "APPROVE", f"promoted already: generation {row['generation']} by {row['actor']}"
            found = tagged(client, settings, version)
        return (found.action, found.sentence) if isinstance(found, Answer) else None

    return look


@contextmanager
def _asking(run_key: str) -> Iterator[None]:
    try:
        yield
    except (MlflowException, StoreError) as error:
        raise ClassyError(f"run key {run_key}: whether somebody answered cannot be seen now: {error}") from error


def answered(settings: Settings, run_key: str, version: str) -> tuple[Action, str] | None:
    """What `watch` sees at once; None also where it cannot look."""
    try:
        return watch(settings, run_key, version)()
    except ClassyError:
        # A person can be asked all the same, and the watch goes on while they think.
        return None


def need_judged(store: Store, run_key: str) -> dict[str, Any]:
    """The verdict under this run key, a row of `decisions`.

    Raises:
        ClassyError: there is none.
    """
    judged = store.decision(f"judge-{run_key}")
    if judged is None:
        raise ClassyError(
            f"run key {run_key}: nothing was judged under it; run `classy evaluate --run-key {run_key} …`"
        )
    return judged


def question(settings: Settings, run_key: str) -> str:
    """What a person is asked, in Markdown: the judge's reasons, what each answer does, and where else to answer."""
    evidence = judgement.of_decision(need_judged(open_store(settings.database_url), run_key))
    contender, champion = evidence["contender"], evidence["champion_version"]
    version, address = contender["version"], version_url(settings, contender["version"])
    kept = f"leaves version {champion} the champion" if champion else "leaves production empty"
    shown, more = evidence["reasons"][:REASONS], len(evidence["reasons"]) - REASONS
    lines = [
        f"The judge says **{evidence['verdict']}**: version {version} (`{contender['candidate']}`) against "
        f"{judgement.opponent_name(evidence['opponent'])}.",
        "",
        *(f"- {reason}" for reason in shown),
        "",
        f"[Version {version} in MLflow]({address}) shows all that was measured, with pictures"
        f"{f', and the {more} other findings' if more > 0 else ''}.",
        "",
        f"- **Approve** makes version {version} the champion.",
        f"- **Reject** {kept}.",
        "- This run waits for either, without end; no other training starts meanwhile.",
        "",
        "Your name and note go to the ledger. You can also answer",
        "",
        f"- in MLflow, with tags on that version: `{TAG_BY}` = your name, `{TAG_NOTE}` if you like, and last "
        f"`{TAG}` = `approved` or `rejected`;",
        f"- in a terminal: `classy promote --run-key {run_key} --approved-by NAME` or `--rejected-by NAME`.",
    ]
    return "\n".join(lines)
