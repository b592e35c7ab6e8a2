"""What a run says of its model beside how right it is: its size, what it took to train, the code it came from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlflow.tracking import MlflowClient

from monitoring.gates import Ratio
from pipelines.models import tracking


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """None: the run does not say, or there is no run."""

    train_seconds: float | None = None
    train_cost: float | None = None
    """In `currency`; None where nobody counts it."""
    currency: str = ""
    package_bytes: int | None = None
    package_sha256: str | None = None
    """Of the package's manifest: what was judged is what serves."""
    parameters: int | None = None
    git_commit: str | None = None
    seed: int | None = None
    created_by: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def facts_of(client: MlflowClient, run_id: str, card: Mapping[str, Any]) -> Facts:
    """The facts of a packaged run; nothing for a guess, which has no run.

    Raises:
        ClassyError: there is no such run.
    """
    if not run_id:
        return Facts()
    data = tracking.need_run(client, run_id).data
    size, seed = data.metrics.get("package_bytes"), data.params.get("seed")
    return Facts(
        train_seconds=data.metrics.get("train_seconds"),
        train_cost=data.metrics.get("train_cost") or None,
        currency=data.params.get("currency", ""),
        package_bytes=None if size is None else int(size),
        package_sha256=data.tags.get(tracking.PACKAGE_SHA256),
        parameters=card.get("parameters"),
        git_commit=data.tags.get(tracking.GIT_COMMIT),
        seed=None if seed is None else int(seed),
        created_by=card.get("created_by"),
    )


def ratios(contender: Facts, opponent: Facts) -> list[Ratio]:
    """What both runs say exactly: the package's size, and what training cost, in money or else in seconds."""
    size = _ratio("size", contender.package_bytes, opponent.package_bytes, "bytes")
    if contender.train_cost and opponent.train_cost and contender.currency == opponent.currency:
        cost = _ratio("cost", contender.train_cost, opponent.train_cost, contender.currency)
    else:
        cost = _ratio("cost", contender.train_seconds, opponent.train_seconds, "s")
    return [found for found in (size, cost) if found is not None]


def _ratio(gate: Literal["size", "cost"], ours: float | None, theirs: float | None, unit: str) -> Ratio | None:
    if not ours or not theirs:
        return None
    return Ratio(gate=gate, contender=float(ours), opponent=float(theirs), high=ours / theirs, unit=unit)
