"""Data: the recipes that come with Classy are right, and a wrong one hears of each wrong field."""

import os
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipelines import gather, validate
from pipelines.errors import ClassyError
from pipelines.recipe import RECIPES, Recipe, family_of, load_recipe
from pipelines.settings import Settings
from pipelines.sources import open_source

needs_clothing = pytest.mark.skipif(
    not os.environ.get("CLASSY_CLOTHING"),
    reason="the clothing photos are not here: set CLASSY_CLOTHING to the folder with images.csv and images/",
)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_recipe_loads_by_its_name(path: Path) -> None:
    recipe = load_recipe(path.stem)
    assert recipe.name == path.stem
    assert recipe.digest() == load_recipe(str(path)).digest()
    assert recipe.candidates[0].kind == "sklearn"  # a baseline comes before a champion
    last = recipe.story.last_day or recipe.replay.end
    assert all(recipe.replay.start < scenario.from_ < last for scenario in recipe.scenarios)


def test_the_starter_s_alternatives_are_right_as_well() -> None:
    text = (RECIPES / "starter.toml").read_text()
    given = tomllib.loads(text)
    blocks = [block for block in text.split("\n\n") if "# [source]" in block]
    assert len(blocks) == 3
    for block in blocks:
        # A block's lines are commented out once; its opening words are prose.
        body = block[block.index("# [source]") :]
        lines = [line.removeprefix("# ") for line in body.splitlines()]
        source = tomllib.loads("\n".join(lines))["source"]
        assert Recipe.model_validate({**given, "source": source}).source.kind == source["kind"]
    names = (
        "aliases", "sender_pattern", "seeds", "patience", "ema", "progressive", "compile", "[input]", "pipeline",
        "gpu_hours", "price_per_hour", "money", "slice_columns", "require", "[search]", "trials", "minutes",
        "[search.space", "lr = { low", "width = { low", "batch = {", "[health]", "max_p99_ms", "max_missing",
    )  # fmt: skip
    optional = [line[2:] for line in text.splitlines() if line.startswith(tuple(f"# {name}" for name in names))]
    assert len(optional) == len(names)
    edited = text
    for line in optional:
        edited = edited.replace(f"# {line}", line)
    recipe = Recipe.model_validate(tomllib.loads(edited))
    assert recipe.taxonomy.aliases["kitten"] == "cat"
    assert (recipe.gates.require, recipe.fits[-1]) == ("not_worse", "resnet-seed3")
    assert (recipe.input.pipeline, recipe.budget.money) == ("shards", 10.0)
    assert list(recipe.search.space["resnet"]) == ["lr", "width", "batch"]
    assert (recipe.health.max_p99_ms, recipe.health.max_missing) == (500, 3)


def test_digits_drifts_on_its_eleventh_day(settings: Settings) -> None:
    recipe = load_recipe("digits")
    assert recipe.drift_from == date(2026, 3, 11)
    plan = open_source(recipe, settings).plan()
    per_day = plan.groupby(plan["captured_at"].dt.date).size()
    assert set(per_day) == {200}
    assert len(per_day) == 18
    assert set(plan["label"]) == set(recipe.taxonomy.classes)


def wrong(tmp_path: Path, text: str) -> str:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ClassyError) as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_each_wrong_field_is_named(tmp_path: Path) -> None:
    text = (RECIPES / "digits.toml").read_text()
    for old, new in {
        "records = 3600": "records = 3",
        "taste = 0.5": "tast = 0.5",
        'fit = "stretch"': 'fit = "squeeze"',
        "train_minutes = 3": "train_minutes = -1",
        "days = 18": "days = 'many'",
        "epochs = 24": "epochs = 1.5",
    }.items():
        assert old in text
        text = text.replace(old, new)
    message = wrong(tmp_path, text)
    for field in (
        "source.records = 3", "source.tast: no such field", "image.fit = 'squeeze'", "budget.train_minutes = -1",
        "replay.days = 'many'", "candidates.1.epochs = 1.5",
    ):  # fmt: skip
        assert field in message
    assert "'crop'" in message  # what is allowed
    assert "6 wrong" in message


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('kind = "digits"', 'kind = "digit"', "'digits', 'torchvision', 'folder', 'manifest', 'sql'"),
        ('kind = "digits"\n', "", "source"),
        ('"0", "1"', '"0", "0"', "listed twice"),
        ('name = "resnet"', 'name = "baseline"', "names two candidates"),
        ("history_days = 6", "history_days = 60", "story.history_days=60"),
        ("amount = 0.3", "amount = 1.3", "0 < amount <= 1"),
        ('kind = "rotated"', 'kind = "new_class"', "label is missing"),
        ('name = "digits"', 'name = "Digits!"', "name = 'Digits!'"),
        ("[taxonomy]", "[taxonomie]", "taxonomy: is missing"),
        ('name = "resnet"', 'name = "resnet-seed2"', "ends like a further seed"),
        ('fit = "stretch"', 'fit = "stretch', "not valid TOML"),
        ("train_minutes = 3", "money = 2", "money=2: needs price_per_hour"),
        ("[policy]", "[policy]\nmax_money = 5", "policy.max_money=5: needs budget.price_per_hour"),
        ("[budget]", '[input]\npipeline = "fast"\n\n[budget]', "input.pipeline = 'fast'"),
        ("blocks = [1, 1]", "progressive = 0.1", "progressive = 0.1"),
        ("blocks = [1, 1]", "ema = 1", "ema = 1"),
        ("[budget]", "[search]\ntrials = 0\n\n[budget]", "search.trials = 0"),
        ("[budget]", "[search]\nminutes = 0\n\n[budget]", "search.minutes = 0"),
    ],
)
def test_one_wrong_thing(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = (RECIPES / "digits.toml").read_text()
    assert old in text
    assert says in wrong(tmp_path, text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ("resnet]\nlr = { low = 0, high = 0.1 }", "search.space.resnet.lr.low = 0.0: Input should be"),
        ("resnet]\nlr = { low = 0.1, high = 0.01 }", "search.space.resnet.lr: low=0.1 is above high=0.01"),
        ("resnet]\nlr = { low = 1 }", "search.space.resnet.lr: has no choices and no bounds"),
        ("resnet]\nlr = { low = 1, high = 2, choices = [1] }", "has choices and bounds"),
        ("resnet]\nlr = { choices = [] }", "give `low` and `high`, or at least one of `choices`"),
        ("resnet]\nlr = { choices = [0.1, 0.1] }", "one is listed twice"),
        ("resnet]\nbatch = { choices = [32, 1] }", "search.space.resnet.batch.choices.1 = 1: Input should"),
        ("resnet]\nblocks = { choices = [[1], 1] }", "search.space.resnet.blocks.choices.1 = 1: Input"),
        ("resnet]\nwidht = { low = 8, high = 16 }", "search.space.resnet.widht: no such field of candidate"),
        ("resnet]\nwidth = { low = 8, high = 16.5 }", "search.space.resnet.width.high = 16.5: Input should"),
        ("resnet]\nwidth = { low = 8, high = 16, step = 0.5 }", "search.space.resnet.width.step = 0.5"),
        ("resnet]\nwidth = { low = 8, high = 16, step = 3 }", "steps of 3 from 8 do not lead to high=16"),
        ("resnet]\nwidth = { low = 8, high = 16, step = 4, log = true }", "has step and log"),
        ("resnet]\nshift = { low = 0, high = 0.5, log = true }", "log needs low above 0"),
        ("resnet]\nflip = { low = 0, high = 1 }", "give choices = [false, true]"),
        ("resnet]\nseed = { low = 0, high = 9 }", "search.space.resnet.seed: cannot be searched: a better"),
        ("resnet]\nkind = { choices = ['sklearn'] }", "give it a candidate of its own"),
        ("resnet]\nepochs = { low = 1, high = 9 }", "a trial's length is search.epochs"),
        ("resnext]\nlr = { low = 1, high = 2 }", "no such candidate; candidates are baseline, resnet"),
        ("resnet]", "search.space.resnet = 'resnet': names no field"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_searched(tmp_path: Path, space: str, says: str) -> None:
    assert says in wrong(tmp_path, f"{(RECIPES / 'digits.toml').read_text()}\n[search.space.{space}\n")


def test_a_candidate_with_several_seeds_is_fitted_several_times(tmp_path: Path) -> None:
    path = tmp_path / "seeds.toml"
    path.write_text((RECIPES / "digits.toml").read_text().replace("epochs = 24", "epochs = 24\nseeds = 3\nseed = 40"))
    recipe = load_recipe(str(path))
    assert recipe.fits == ("baseline", "resnet", "resnet-seed2", "resnet-seed3")
    assert [recipe.candidate(name).seed for name in recipe.fits[1:]] == [40, 41, 42]
    assert recipe.candidate("resnet-seed3").name == "resnet-seed3"
    assert {family_of(name) for name in recipe.fits} == {"baseline", "resnet"}
    for typo in ("resnet-seed4", "resnet-seed1", "resnet-seed", "baseline-seed2"):
        with pytest.raises(ClassyError, match="candidates are baseline, resnet, resnet-seed2, resnet-seed3"):
            recipe.candidate(typo)


@pytest.mark.parametrize(
    ("name", "differs"),
    [("digits", {"name", "source", "replay"}), ("clothing", {"name", "replay", "scenarios", "candidates", "story"})],
)
def test_a_month_is_its_recipe_but_for_its_length(
    name: str, differs: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLASSY_CLOTHING", "/photos")
    short, month = (load_recipe(one).model_dump() for one in (name, f"{name}-month"))
    assert {field for field in short if short[field] != month[field]} == differs


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ClassyError, match=r"no such file. Recipes here: clothing, clothing-month, digits, digits-month, starter"
    ):
        load_recipe("digit")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ClassyError, match="cannot be read"):
        load_recipe(str(tmp_path / "bytes.toml"))


def test_clothing_without_its_photos_says_what_to_set(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLASSY_CLOTHING", raising=False)
    with pytest.raises(ClassyError, match="CLASSY_CLOTHING is not set"):
        open_source(load_recipe("clothing"), settings)
    monkeypatch.setenv("CLASSY_CLOTHING", str(settings.home))
    with pytest.raises(ClassyError, match=r"images\.csv': no such file"):
        open_source(load_recipe("clothing"), settings).plan()


@needs_clothing
def test_a_day_of_real_photos(settings: Settings) -> None:
    recipe = load_recipe("clothing")
    days: list[Any] = []
    for day in (date(2026, 3, 2), date(2026, 3, 13)):
        gathered = gather.run(settings, recipe, day=day)
        days.append(validate.run(settings, recipe, raw_uri=gathered.raw_uri))
        assert gathered.records > 200
    for validated in days:
        assert validated.ok, validated.reasons
        assert validated.kept > 200
        assert 0 < validated.by_reason["unknown_label"] < 40  # "Not sure", "Skip", "Other"
