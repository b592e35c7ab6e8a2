"""The part of a recipe that says what of a candidate is searched, in which bounds, and for how long."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from pipelines.sections import Section
from pipelines.training_sections import CandidateBase

C = TypeVar("C", bound=CandidateBase)

FIXED = {
    "name": "names the candidate",
    "kind": "another kind has other fields; give it a candidate of its own, and the judge takes the better one",
    "seed": "a better seed is luck, not a better candidate; `seeds` fits several and judges the middle one",
    "seeds": "is how often the candidate is fitted, not what it is",
    "epochs": "a trial's length is search.epochs; the training after it is as long as the candidate says",
}
"""Fields that are not searched, and why."""


class Span(Section):
    """Where a field's value is looked for: from `low` to `high`, or one of `choices`."""

    low: float | None = Field(default=None, allow_inf_nan=False)
    high: float | None = Field(default=None, allow_inf_nan=False)
    step: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Only every so much, from `low` on."""
    log: bool = False
    """Evenly over orders of magnitude: for a learning rate."""
    choices: tuple[Any, ...] = ()

    @model_validator(mode="after")
    def _one_or_the_other(self) -> "Span":
        if self.choices:
            if self.low is not None or self.high is not None or self.step is not None or self.log:
                raise ValueError("has choices and bounds; give either `choices`, or `low` and `high`")
            if any(value in self.choices[:at] for at, value in enumerate(self.choices)):
                raise ValueError(f"choices={list(self.choices)}: one is listed twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError("has no choices and no bounds; give `low` and `high`, or at least one of `choices`")
        if not self.low <= self.high:
            raise ValueError(f"low={self.low:g} is above high={self.high:g}; turn them round")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low above 0, not {self.low:g}")
        if self.step is not None:
            if self.log:
                raise ValueError("has step and log; leave one of them out")
            steps = (self.high - self.low) / self.step
            if not math.isclose(steps, round(steps), abs_tol=1e-9):
                raise ValueError(f"steps of {self.step:g} from {self.low:g} do not lead to high={self.high:g}")
        return self

    def holds(self, value: Any) -> bool:
        """Whether a value of the field lies in it."""
        if self.choices:
            return _plain(value) in self.choices
        if self.low is None or self.high is None or not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def choice(self, value: Any) -> Any:
        """A value as it is written among the choices: 1 for 1.0."""
        return self.choices[self.choices.index(_plain(value))]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class Search(Section):
    """Values of a candidate's fields that are better than those in the recipe, looked for before it is trained."""

    trials: int = Field(default=20, ge=1, le=1000)
    """At most so many short trainings of each candidate that has a space."""
    minutes: float = Field(default=30, gt=0)
    """Of one candidate's whole search: the trial that is under way then gets what is left, and no other is begun."""
    epochs: int = Field(default=0, ge=0, le=10_000)
    """Of one trial; 0: the candidate's own."""
    seed: int = Field(default=7, ge=0)
    prune: bool = True
    """End a trial early that is worse than the middle one of those before it was at the same epoch."""
    space: dict[str, dict[str, Span]] = Field(default_factory=dict)
    """Candidate → its fields → where to look. No candidate: nothing is searched."""


def objection(candidate: CandidateBase, field: str, value: Any) -> str | None:
    """Why a candidate cannot have this value in this field; None where it can."""
    if field in FIXED:
        return f"cannot be searched: {FIXED[field]}"
    model = type(candidate)
    if field not in model.model_fields:
        known = ", ".join(sorted(set(model.model_fields) - set(FIXED)))
        return f"no such field of candidate {candidate.name}; there are {known}"
    try:
        model.model_validate({**candidate.model_dump(), field: value})
    except ValidationError as error:
        return str(error.errors()[0]["msg"])
    return None


def with_values(candidate: C, values: Mapping[str, Any]) -> C:
    """The candidate with other values in some of its fields.

    Raises:
        ValueError: names each field that cannot have its value, and why.
    """
    wrong = {field: objection(candidate, field, value) for field, value in values.items()}
    if any(wrong.values()):
        raise ValueError("; ".join(f"{field} = {values[field]!r}: {why}" for field, why in wrong.items() if why))
    return type(candidate).model_validate({**candidate.model_dump(), **values})


def check_spaces(search: Search, candidates: Sequence[CandidateBase]) -> None:
    """Every space must be of a candidate there is, and in values that its fields can have.

    Raises:
        ValidationError: one line a problem, each at the place that is wrong.
    """
    known = {candidate.name: candidate for candidate in candidates}
    lines = []
    for name, space in search.space.items():
        if name not in known:
            lines.append(_line((name,), name, f"no such candidate; candidates are {', '.join(known)}"))
        elif not space:
            lines.append(_line((name,), name, "names no field; give one, or leave the table out"))
        else:
            for field, span in space.items():
                lines += _wrong_span(known[name], field, span)
    if lines:
        raise ValidationError.from_exception_data("search", lines)


def _wrong_span(candidate: CandidateBase, field: str, span: Span) -> Iterator[InitErrorDetails]:
    at: tuple[str | int, ...] = (candidate.name, field)
    if field in FIXED or field not in type(candidate).model_fields:
        yield _line(at, {}, str(objection(candidate, field, None)))
    elif span.choices:
        for number, value in enumerate(span.choices):
            if why := objection(candidate, field, value):
                yield _line((*at, "choices", number), value, why)
    elif isinstance(getattr(candidate, field), bool):
        yield _line(at, {}, "is true or false; give choices = [false, true]")
    else:
        for end in ("low", "high"):
            if why := objection(candidate, field, getattr(span, end)):
                yield _line((*at, end), getattr(span, end), why)
        if span.step is not None and isinstance(getattr(candidate, field), int) and not span.step.is_integer():
            yield _line((*at, "step"), span.step, "the field's values are whole numbers, so steps must be")


def _line(at: tuple[str | int, ...], value: Any, why: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("space", why), loc=("space", *at), input=value)
