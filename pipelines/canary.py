"""A new version beside the champion: for a share of the senders (canary), or for nobody's eyes (shadow).

    classy canary start VERSION [--weight W] [--name NAME] --reason TEXT
    classy canary weight|promote|drop|shadow|judge|show

Each change is a generation of its own; the champion stays until one promotes the canary. `judge` looks at what both
arms answered since the canary began; where the recipe says so it also acts, and may be asked every minute.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from mlflow.exceptions import MlflowException

from monitoring import ledger
from monitoring.stores import LostRace, Store, open_store
from pipelines.errors import ClassyError
from pipelines.lineage.keeping import keep_chain
from pipelines.models import judgement, registry, tracking, trial
from pipelines.models.fitness import data_time, need_fit
from pipelines.models.links import version_url
from pipelines.recipe import Recipe
from pipelines.settings import Settings

Make = Callable[[dict[str, Any] | None, ledger.Change], dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """What serves after a change."""

    generation: int
    champion: str
    canary: str | None
    canary_name: str | None
    canary_weight: float
    shadow: str | None
    changed: bool
    """False where this run key had made its generation before."""
    reason: str
    version_url: str | None
    """Of the version that it was about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What was found out about the canary of now."""

    verdict: str | None
    """PROMOTE, DROP or CONTINUE; None without a canary."""
    reason: str
    version: str | None = None
    name: str | None = None
    days: float = 0.0
    findings: tuple[dict[str, Any], ...] = ()
    acted: bool = False
    """Whether it was promoted or dropped by this call."""
    generation: int | None = None
    decision_key: str | None = None
    evidence_uri: str | None = None


# ------------------------------------------------------------------------------------------------- changes


def start(
    settings: Settings,
    recipe: Recipe,
    *,
    version: str,
    weight: float | None = None,
    name: str = "",
    reason: str,
    actor: str | None = None,
    run_key: str,
) -> Changed:
    """Let a version answer a share of the senders beside the champion.

    Args:
        weight: the share; default `recipe.serving.canary.weight`.
        name: how its arm is called, such as B; default canary.
        run_key: names this change; the same key twice changes once.

    Raises:
        LedgerError: nothing is in production, it is the champion, another canary is there, the weight is no share.
        LostRace: production changed meanwhile.
        ClassyError, ModelError: the version cannot serve; nothing was changed.
    """
    share = recipe.serving.canary.weight if weight is None else weight
    return _beside(
        settings,
        recipe,
        "canary",
        version,
        partial(ledger.canary, weight=share, name=_arm_name(name)),
        reason=reason,
        actor=actor,
        run_key=run_key,
    )


def shadow(
    settings: Settings, recipe: Recipe, *, version: str, reason: str, actor: str | None = None, run_key: str
) -> Changed:
    """Let a version answer everything too, for the log alone. Raises as `start`."""
    return _beside(settings, recipe, "shadow", version, ledger.shadow, reason=reason, actor=actor, run_key=run_key)


def weight(
    settings: Settings, recipe: Recipe, *, weight: float, reason: str, actor: str | None = None, run_key: str
) -> Changed:
    """Give the canary another share: a larger one adds senders, a smaller one lets some go back. Raises as `start`."""

    def make(current: dict[str, Any] | None, change: ledger.Change) -> dict[str, Any]:
        now = _need_canary(current)
        version, run_id = now["canary_version"], now["canary_run_id"]
        return ledger.canary(now, change, version=version, run_id=run_id, weight=weight)

    store = open_store(settings.database_url)
    return _settled(settings, store, *_change(settings, store, make, reason, actor, run_key), role="canary")


def drop(
    settings: Settings,
    recipe: Recipe,
    *,
    role: ledger.Role = "canary",
    version: str | None = None,
    reason: str,
    actor: str | None = None,
    run_key: str,
) -> Changed:
    """Let the canary, or the shadow, go: the champion answers its senders again. Raises as `start`.

    Args:
        version: the one that is meant; another one stays. Default: whoever it is.
    """

    def make(current: dict[str, Any] | None, change: ledger.Change) -> dict[str, Any]:
        _need_same(current, role, version)
        return ledger.drop(current, change, role=role)

    store = open_store(settings.database_url)
    return _settled(settings, store, *_change(settings, store, make, reason, actor, run_key), version=version)


def promote(
    settings: Settings,
    recipe: Recipe,
    *,
    version: str | None = None,
    reason: str,
    actor: str | None = None,
    run_key: str,
) -> Changed:
    """Make the canary the champion: one generation, with the evidence on which its version was judged before it.

    Raises as `start`.

    Args:
        version: the one that is meant; another one stays the canary. Default: whoever it is.
    """
    store = open_store(settings.database_url)

    def make(current: dict[str, Any] | None, change: ledger.Change) -> dict[str, Any]:
        now = _need_canary(current)
        _need_same(now, "canary", version)
        judged = judgement.of_run(store, now["canary_run_id"]) or {}
        return ledger.promotion(
            now,
            change,
            version=now["canary_version"],
            run_id=now["canary_run_id"],
            evidence_uri=judged.get("evidence_uri"),
            evidence_hash=judged.get("evidence_hash"),
        )

    row, changed = _change(settings, store, make, reason, actor, run_key)
    found = _settled(settings, store, row, changed, version=row["champion_version"])
    keep_chain(settings, recipe, row["generation"])
    return found


def _beside(
    settings: Settings,
    recipe: Recipe,
    role: ledger.Role,
    version: str,
    make: Callable[..., dict[str, Any]],
    *,
    reason: str,
    actor: str | None,
    run_key: str,
) -> Changed:
    """Check that a version can serve, then write the generation in which it does."""
    client, store = tracking.connect(settings), open_store(settings.database_url)
    try:
        run_id = str(registry.need_version(client, settings, version).run_id)
    except MlflowException as error:
        raise ClassyError(f"version {version!r}: {error.message}; `classy history` shows those that served") from error
    if store.deployment_of(run_key) is None:
        # First what costs nothing to refuse; then the package.
        make(store.current(), _said(settings, store, reason, actor, run_key), version=version, run_id=run_id)
        need_fit(
            settings,
            recipe,
            client,
            version=version,
            run_id=run_id,
            who=f"version {version} (MLflow run {run_id})",
            act=f"Make it the {role}",
            instead="train one with this recipe",
        )
    row, changed = _change(settings, store, partial(make, version=version, run_id=run_id), reason, actor, run_key)
    return _settled(settings, store, row, changed, role=role)


def _change(
    settings: Settings, store: Store, make: Make, reason: str, actor: str | None, run_key: str
) -> tuple[dict[str, Any], bool]:
    """The generation of this run key, and whether it is new.

    Whoever asks for a change has seen what serves: where that has changed meanwhile, nothing is done.
    """
    current = store.current()
    if (there := store.deployment_of(run_key)) is not None:
        if there["kind"] != "rollback" and store.decision(f"judge-{run_key}") is None:
            return there, False
        raise ClassyError(
            f"run key {run_key}: names a {there['kind']}, not a change of a canary; give another --run-key, or none to "
            "have one made"
        )
    if store.decision(f"judge-{run_key}") is not None:
        raise ClassyError(f"run key {run_key}: names a training; give another --run-key, or none to have one made")
    row = make(current, _said(settings, store, reason, actor, run_key))
    try:
        store.add_generation(row)
    except LostRace as error:
        if (there := store.deployment_of(run_key)) is not None:
            return there, False
        now = store.current() or {}
        raise LostRace(
            f"generation {now.get('generation')} ({now.get('kind')} by {now.get('actor')}) came in between; nothing "
            "was changed. Look with `classy canary show`, then do it again"
        ) from error
    return row, True


def _said(settings: Settings, store: Store, reason: str, actor: str | None, run_key: str) -> ledger.Change:
    if not reason.strip():
        raise ClassyError("a change of what serves needs a reason, for the ledger: --reason TEXT")
    generations = store.generations()
    return ledger.Change(
        actor=actor or settings.actor,
        reason=reason.strip(),
        run_key=run_key,
        as_of=data_time(store, generations) if generations else datetime.now(UTC),
        created_at=datetime.now(UTC),
    )


def _settled(
    settings: Settings,
    store: Store,
    row: Mapping[str, Any],
    changed: bool,
    *,
    role: ledger.Role | None = None,
    version: str | None = None,
) -> Changed:
    """Have the aliases follow. The generation stands whatever becomes of them: the next change repairs them."""
    try:
        registry.project(tracking.connect(settings), settings, store)
        late = ""
    except (ClassyError, MlflowException) as error:
        late = f" The aliases in MLflow follow with the next change: {error}"
    about = version if role is None else row[f"{role}_version"]
    return Changed(
        generation=row["generation"],
        champion=row["champion_version"],
        canary=row["canary_version"],
        canary_name=row["canary_name"],
        canary_weight=row["canary_weight"],
        shadow=row["shadow_version"],
        changed=changed,
        reason=f"{row['reason']}{late}" if changed else f"run key {row['run_key']} made this generation already{late}",
        version_url=None if about is None else version_url(settings, about),
    )


def _need_canary(current: dict[str, Any] | None) -> dict[str, Any]:
    if current is None or current["canary_version"] is None:
        raise ledger.LedgerError("there is no canary; `classy canary start VERSION --reason TEXT` makes one")
    return current


def _need_same(current: Mapping[str, Any] | None, role: ledger.Role, version: str | None) -> None:
    """Raises LedgerError where another one has that role by now."""
    if version is not None and current is not None and current[f"{role}_version"] not in (None, version):
        raise ledger.LedgerError(
            f"version {current[f'{role}_version']} is the {role} by now, not version {version}; nothing was changed"
        )


def _arm_name(name: str) -> str | None:
    if name and (len(name) > 16 or not name.replace("-", "").replace("_", "").isalnum()):
        raise ClassyError(f"--name {name!r}: use at most 16 letters, digits, - and _, such as B")
    return name or None


# ------------------------------------------------------------------------------------------------- judging


def judge(settings: Settings, recipe: Recipe, *, as_of: datetime, act: bool | None = None) -> Judged:
    """Look at both arms since the canary began; record a verdict that ends it, and act on it where that is wanted.

    Args:
        as_of: labels known by then count, and so many days the canary has run.
        act: promote or drop it; default `recipe.serving.canary.automatic`. Where `gates.approval` is on, a person
            promotes it: then only a DROP is acted on.
    """
    store = open_store(settings.database_url)
    generations = ledger.trial(store.generations())
    if not generations:
        return Judged(verdict=None, reason="There is no canary.")
    ruling = trial.rule(recipe, store, generations, as_of)
    found = Judged(
        verdict=ruling.verdict,
        reason=ruling.reason,
        version=generations[-1]["canary_version"],
        name=generations[-1]["canary_name"],
        days=round(trial.days_of(generations, as_of), 3),
        findings=tuple(asdict(finding) for finding in ruling.findings),
        generation=generations[-1]["generation"],
    )
    if ruling.verdict == "CONTINUE":
        return found
    key, evidence = trial.record(settings, recipe, store, generations, ruling, as_of)
    found = replace(found, decision_key=key, evidence_uri=evidence)
    wanted = recipe.serving.canary.automatic if act is None else act
    if not wanted or (ruling.verdict == "PROMOTE" and recipe.gates.approval):
        return found
    return _act(settings, recipe, found)


def _act(settings: Settings, recipe: Recipe, found: Judged) -> Judged:
    verb = promote if found.verdict == "PROMOTE" else drop
    try:
        done = verb(
            settings,
            recipe,
            version=found.version,
            reason=found.reason,
            actor=trial.ACTOR,
            run_key=str(found.decision_key),
        )
    except (LostRace, ledger.LedgerError) as error:
        # Somebody else was first; the next look sees what they did.
        return replace(found, reason=f"{found.reason} Nothing was done: {error}")
    return replace(found, acted=done.changed, generation=done.generation)


# ------------------------------------------------------------------------------------------------ showing


def show(settings: Settings, recipe: Recipe, *, as_of: datetime) -> dict[str, Any]:
    """What answers beside the champion, and how it does by now. Changes nothing."""
    from pipelines.status import status

    serving = status(settings)
    if serving["generation"] is None:
        return serving
    store = open_store(settings.database_url)
    found = {name: serving[name] for name in ("generation", "version", "canary", "shadow")}
    generations = ledger.trial(store.generations())
    if not generations:
        return {**found, "verdict": None, "reason": "There is no canary.", "findings": []}
    ruling = trial.rule(recipe, store, generations, as_of)
    return {
        **found,
        "days": round(trial.days_of(generations, as_of), 3),
        "verdict": ruling.verdict,
        "reason": ruling.reason,
        "findings": [asdict(finding) for finding in ruling.findings],
    }
