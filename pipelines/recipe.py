"""What Classy runs: one TOML file, checked here field by field.

    classy recipe check recipes/digits.toml

Every field has a default unless it cannot have one, and a docstring. An unknown field is an error:
a typo must not be silently ignored. The file that people copy is `recipes/starter.toml`.
"""

import hashlib
import json
import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator

from pipelines.errors import ClassyError
from pipelines.health_sections import Health
from pipelines.labelling_section import Labelling
from pipelines.search_sections import Search, check_spaces
from pipelines.sections import (
    Behaviour,
    Features,
    Gates,
    Image,
    Monitoring,
    Policy,
    Replay,
    Scenario,
    Section,
    Snapshot,
    Source,
    Story,
    Taxonomy,
    Validation,
)
from pipelines.serving_sections import Serving
from pipelines.training_sections import (
    Budget,
    Candidate,
    CandidateBase,
    Input,
    ResnetCandidate,
    SklearnCandidate,
    TorchvisionCandidate,
)

SEED = re.compile(r"^(?P<family>.+)-seed(?P<number>\d+)$")
"""The second fit of candidate `resnet` is called `resnet-seed2`."""
ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "recipes"


class Recipe(Section):
    """One use of Classy."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    source: Source
    taxonomy: Taxonomy
    replay: Replay = Replay()
    scenarios: tuple[Scenario, ...] = ()
    image: Image = Image()
    validation: Validation = Validation()
    features: Features = Features()
    snapshot: Snapshot = Snapshot()
    candidates: tuple[Candidate, ...] = Field(min_length=1)
    search: Search = Search()
    input: Input = Input()
    budget: Budget = Budget()
    gates: Gates = Gates()
    behaviour: Behaviour = Behaviour()
    monitoring: Monitoring = Monitoring()
    health: Health = Health()
    policy: Policy = Policy()
    labelling: Labelling = Labelling()
    serving: Serving = Serving()
    story: Story = Story()

    @field_validator("candidates")
    @classmethod
    def _names_differ(cls, candidates: tuple[CandidateBase, ...]) -> tuple[CandidateBase, ...]:
        names = [candidate.name for candidate in candidates]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"{', '.join(doubled)} names two candidates; give each its own name")
        if taken := [name for name in names if SEED.match(name)]:
            raise ValueError(f"{taken[0]} ends like a further seed of a candidate; name it without -seed and a number")
        return candidates

    @field_validator("search")
    @classmethod
    def _spaces_are_of_candidates(cls, search: Search, given: ValidationInfo) -> Search:
        # Where the candidates are wrong themselves, that is said first.
        if "candidates" in given.data:
            check_spaces(search, given.data["candidates"])
        return search

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        for scenario in self.scenarios:
            if scenario.kind == "new_class" and scenario.label not in self.taxonomy.classes:
                raise ValueError(f"scenarios: new_class {scenario.label!r} is not in taxonomy.classes")
        if self.policy.max_money and not self.budget.price_per_hour:
            raise ValueError(
                f"policy.max_money={self.policy.max_money:g}: needs budget.price_per_hour, what an hour costs"
            )
        if self.story.history_days >= self.replay.days:
            raise ValueError(
                f"story.history_days={self.story.history_days} leaves no day of replay.days={self.replay.days}"
            )
        return self

    @property
    def is_replayed(self) -> bool:
        """True where the source has no times of its own and `replay` gives the calendar."""
        return not getattr(self.source, "captured_at", "")

    @property
    def no_queue(self) -> str:
        """Why people are asked about no photo of this recipe; empty: they are."""
        if self.labelling.per_day == 0:
            return "labelling.per_day is 0"
        if self.is_replayed and not self.labelling.replayed:
            return "the source is replayed and its labels come by themselves; labelling.replayed = true queues anyway"
        return ""

    @property
    def drift_from(self) -> date | None:
        """First day of the first scenario: what the monitor should notice."""
        return min((scenario.from_ for scenario in self.scenarios), default=None)

    @property
    def fits(self) -> tuple[str, ...]:
        """What a training fits: each candidate by name, and once more as `NAME-seedN` for each further seed."""
        return tuple(
            candidate.name if number == 1 else f"{candidate.name}-seed{number}"
            for candidate in self.candidates
            for number in range(1, getattr(candidate, "seeds", 1) + 1)
        )

    def candidate(self, name: str) -> "SklearnCandidate | ResnetCandidate | TorchvisionCandidate":
        """The candidate called `name`, one of `fits`; a further seed of a candidate is a candidate with that seed.

        Raises:
            ClassyError: there is none; the message lists the names.
        """
        further = SEED.match(name)
        for candidate in self.candidates:
            if candidate.name == name:
                return candidate
            if further and candidate.name == further["family"] and name in self.fits:
                return candidate.model_copy(update={"name": name, "seed": candidate.seed + int(further["number"]) - 1})
        known = ", ".join(self.fits)
        raise ClassyError(f"recipe {self.name}: no candidate {name!r}; candidates are {known}")

    def digest(self) -> str:
        """SHA-256 of the recipe's canonical JSON, 12 hex digits."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def family_of(name: str) -> str:
    """The candidate that a fit is a seed of: `resnet` for `resnet` and `resnet-seed2`."""
    further = SEED.match(name)
    return further["family"] if further else name


# ---------------------------------------------------------------------------------------------- the door


def recipe_path(name: str) -> Path:
    """`digits` is `recipes/digits.toml`; anything with a slash or ending in .toml is a path."""
    if name.endswith(".toml") or "/" in name:
        return Path(name).expanduser()
    return RECIPES / f"{name}.toml"


def load_recipe(name: str) -> Recipe:
    """Read and check a recipe.

    Args:
        name: a file in `recipes/` without its ending, or a path.

    Raises:
        ClassyError: no such file, no TOML, or wrong fields; the message names each of them.
    """
    path = recipe_path(name)
    try:
        given = tomllib.loads(path.read_text())
    except FileNotFoundError:
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        raise ClassyError(
            f"recipe {path}: no such file. Recipes here: {known}; or give a path to a .toml file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClassyError(f"recipe {path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ClassyError(f"recipe {path}: not valid TOML: {error}") from None
    try:
        return Recipe.model_validate(given)
    except ValidationError as error:
        problems = "\n".join(f"  {line}" for line in explain(error))
        raise ClassyError(f"recipe {path}: {error.error_count()} wrong\n{problems}") from None


def explain(error: ValidationError) -> list[str]:
    """One line a problem: field, what was given, what is allowed."""
    return [_line(dict(problem)) for problem in error.errors()]


def _line(problem: dict[str, Any]) -> str:
    # Pydantic puts the kind of a union's member into the location; a person wrote no such thing.
    kinds = {"digits", "torchvision", "folder", "manifest", "sql", "sklearn", "resnet"}
    loc = problem["loc"]
    inside_union = len(loc) > 1 and (loc[0] == "source" or loc[0] == "candidates")
    parts = [str(part) for i, part in enumerate(loc) if not (inside_union and i in (1, 2) and part in kinds)]
    field = ".".join(parts) or "recipe"
    if problem["type"] == "extra_forbidden":
        return f"{field}: no such field; is it misspelt?"
    if problem["type"] == "missing":
        return f"{field}: is missing"
    given = problem["input"]
    message = str(problem["msg"]).removeprefix("Value error, ")
    shown = f" = {given!r}" if not isinstance(given, dict | BaseModel) else ""
    return f"{field}{shown}: {message}"
