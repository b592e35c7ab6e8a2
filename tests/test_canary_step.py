"""A canary from its start to its end: in the real tables and registry, judged on answers with their truth."""

import asyncio
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from monitoring import arms as kept
from monitoring.ledger import LedgerError
from monitoring.stores import LostRace, Store, open_store
from pipelines import canary, explain, promote, rollback, status
from pipelines.errors import ClassyError
from pipelines.models import judgement, registry, tracking
from pipelines.online import guard, packages
from pipelines.online.byhand import ByHand
from pipelines.online.deployments import Deployments
from pipelines.recipe import Recipe
from pipelines.retention.rules import Records, references
from pipelines.settings import Settings, load_settings
from serving.problems import Problem
from serving.runtime import ModelError, verify
from serving.versions.arms import Arm
from serving.versions.tally import Tally
from tests.conftest import TINY
from tests.judged import aliases, ready_mlflow
from tests.promotions import plant, rule, shown

NOW = datetime.now(UTC).replace(second=0, microsecond=0)
SOON = NOW + timedelta(days=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shop:
    """Where `first` is the champion, and `second` was judged better and waits."""

    settings: Settings
    recipe: Recipe
    runs: dict[str, str]

    @property
    def store(self) -> Store:
        return open_store(self.settings.database_url)

    def serving(self, **canary: Any) -> "Shop":
        """The same with other rules for canaries."""
        given = self.recipe.serving.model_copy(update={"canary": self.recipe.serving.canary.model_copy(update=canary)})
        return replace(self, recipe=self.recipe.model_copy(update={"serving": given}))

    def start(self, version: str = "2", run_key: str = "try", **more: Any) -> canary.Changed:
        return canary.start(
            self.settings, self.recipe, version=version, reason="first try", run_key=run_key, **more
        )  # fmt: skip

    def judge(self, **more: Any) -> canary.Judged:
        return canary.judge(self.settings, self.recipe, as_of=SOON, **more)


def make_shop(settings: Settings, recipe: Recipe) -> dict[str, str]:
    """Gives the runs by name."""
    ready_mlflow(settings)
    runs = {name: plant(settings, recipe, name) for name in ("first", "second")}
    rule(settings, recipe, runs["first"], "key-1", day=1)
    promote.run(settings, recipe, run_key="key-1")
    rule(settings, recipe, runs["second"], "key-2", day=2)
    return runs


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A home with that shop, to be copied: making one takes longer than most tests."""
    home = tmp_path_factory.mktemp("template") / "var"
    return home, make_shop(load_settings(home=home, actor="tester", threads=1), Recipe.model_validate(TINY))


@pytest.fixture
def shop(settings: Settings, recipe: Recipe, request: pytest.FixtureRequest) -> Shop:
    if "database_url" in request.fixturenames:
        return Shop(settings=settings, recipe=recipe, runs=make_shop(settings, recipe))
    home, runs = request.getfixturevalue("template")
    shutil.copytree(home, settings.home)
    return Shop(settings=settings, recipe=recipe, runs=runs)


def answer(shop: Shop, right: Mapping[str, float], *, senders: int = 60, each: int = 10, arm: str = "canary") -> None:
    """Live answers with their truth by both arms, and minutes without errors. `right` is the accuracy by arm."""
    row = shop.store.current()
    assert row is not None
    predictions, truth, minutes = [], [], []
    for name in ("champion", arm):
        for number in range(senders * each):
            correct = (number * 0.6180339887) % 1 < right["champion" if name == "champion" else "canary"]
            image = f"{name}-{row['generation']}-{number}"
            predictions.append(
                {
                    "prediction_id": image, "image_id": image, "source_id": f"{name}-{number % senders}",
                    "captured_at": NOW, "predicted_at": NOW, "label": "1" if correct else "2", "confidence": 0.9,
                    "probabilities": [0.9, 0.1], "model_version": "1", "run_id": "made-up",
                    "generation": row["generation"], "arm": name, "channel": "online", "service_hash": "made-up",
                    "defaulted": False, "content_hash": None, "context": None, "timings": None, "cached": False,
                    "request_id": None, "key_id": None,
                }
            )  # fmt: skip
            truth.append({"image_id": image, "label": "1", "labelled_at": NOW, "said_by": "ada"})
        minutes += [
            {
                "generation": row["generation"], "arm": name, "minute": NOW + timedelta(minutes=number),
                "worker": "w1", "photos": 10, "errors": 0, "latencies": {"4": 8, "8": 2},
            }
            for number in range(800)
        ]  # fmt: skip
    shop.store.upsert_predictions(predictions)
    shop.store.upsert_truth(truth)
    shop.store.write_arm_minutes(minutes)


# ------------------------------------------------------------------------------------------------- changes


@pytest.mark.usefixtures("database_url")
def test_a_canary_is_a_generation_beside_a_champion_that_stays(shop: Shop) -> None:
    first = shop.store.current()
    assert first is not None
    found = shop.start(weight=0.2, name="B", actor="ada")
    assert (found.generation, found.champion, found.canary, found.canary_name) == (2, "1", "2", "B")
    row = shop.store.current()
    assert row is not None
    assert (row["kind"], row["actor"], row["canary_weight"]) == ("canary", "ada", 0.2)
    same = ("champion_version", "champion_run_id", "previous_version", "evidence_uri", "evidence_hash")
    assert [row[name] for name in same] == [first[name] for name in same]
    assert row["canary_run_id"] == shop.runs["second"]
    assert aliases(shop.settings) == {"champion": "1", "canary": "2", "contender": "2"}
    serves = status.status(shop.settings)
    assert (serves["version"], serves["kind"], serves["by"], serves["generation"]) == ("1", "promote", "tester", 2)
    assert (serves["canary"]["version"], serves["canary"]["weight"], serves["canary"]["by"]) == ("2", 0.2, "ada")
    assert serves["verdict"] == "PROMOTE", "the evidence of the champion is still shown"


def test_the_same_key_changes_once_and_the_weight_is_changed_beside_a_shadow(shop: Shop) -> None:
    shop.start()
    again = shop.start()
    assert (again.generation, again.changed) == (2, False)
    shadowed = canary.shadow(shop.settings, shop.recipe, version="2", reason="look", run_key="look")
    assert (shadowed.shadow, shadowed.canary) == ("2", "2")
    found = canary.weight(shop.settings, shop.recipe, weight=0.5, reason="more", run_key="more")
    assert (found.generation, found.canary_weight, found.shadow) == (4, 0.5, "2")
    assert aliases(shop.settings)["shadow"] == "2"
    gone = canary.drop(shop.settings, shop.recipe, role="shadow", reason="seen", run_key="seen")
    assert (gone.shadow, gone.canary, gone.canary_weight) == (None, "2", 0.5)
    dropped = canary.drop(shop.settings, shop.recipe, reason="enough", run_key="enough")
    assert (dropped.canary, dropped.canary_weight, dropped.champion) == (None, 0.0, "1")
    assert aliases(shop.settings) == {"champion": "1", "contender": "2"}
    assert [line["kind"] for line in status.history(shop.settings)] == [
        "promote", "canary", "shadow", "canary", "drop", "drop",
    ]  # fmt: skip


def test_a_promoted_canary_is_the_champion_with_the_evidence_of_its_judgement(shop: Shop) -> None:
    shop.start()
    found = canary.promote(shop.settings, shop.recipe, reason="held", run_key="done")
    row = shop.store.current()
    assert row is not None
    assert (found.champion, found.canary, row["kind"], row["previous_version"]) == ("2", None, "promote", "1")
    assert judgement.of_decision(row)["contender"]["run_id"] == shop.runs["second"]
    assert aliases(shop.settings) == {"champion": "2", "previous": "1"}, "a contender that was promoted is none"
    assert shown(shop.settings)["tags"] == {"1": 2, "2": 3}
    with pytest.raises(ClassyError, match="was judged against champion version 1, but version 2 is the champion"):
        promote.run(shop.settings, shop.recipe, run_key="key-2")
    back = rollback.run(shop.settings, shop.recipe, reason="worse in the shop", run_key="back")
    assert (back.version, back.generation) == ("1", 4)


def test_a_training_is_promoted_and_a_rollback_made_while_a_canary_runs_and_end_it(shop: Shop) -> None:
    shop.start()
    done = promote.run(shop.settings, shop.recipe, run_key="key-2")
    assert (done.generation, done.version) == (3, "2")
    shop.start("1", run_key="other way")
    back = rollback.run(shop.settings, shop.recipe, reason="worse", run_key="back")
    row = shop.store.current()
    assert row is not None
    assert (back.version, row["canary_version"], row["canary_weight"]) == ("1", None, 0.0)
    assert aliases(shop.settings) == {"champion": "1", "previous": "2"}


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"version": "1"}, LedgerError, "version 1 is the champion itself"),
        ({"version": "9"}, ClassyError, "version 9: not in the registry"),
        ({"version": "nine"}, ClassyError, "version 'nine'"),
        ({"weight": 1.0}, LedgerError, "canary weight 1: must be above 0 and below 1"),
        ({"name": "champion"}, LedgerError, "canary name 'champion': is taken"),
        ({"name": "a name"}, ClassyError, "at most 16 letters"),
        ({"run_key": "key-2"}, ClassyError, "names a training"),
    ],
)
def test_a_start_that_cannot_be_is_refused_with_a_reason_and_changes_nothing(
    shop: Shop, given: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        shop.start(**given)
    assert len(shop.store.generations()) == 1


def test_a_model_of_other_images_or_changed_bytes_cannot_be_a_canary(shop: Shop) -> None:
    other = plant(shop.settings, shop.recipe, "other", image_spec_hash="another", recipe_hash="abc123")
    rule(shop.settings, shop.recipe, other, "key-3", day=3)
    with pytest.raises(ClassyError, match=r"image spec another .* Make it the canary with the recipe it was trained"):
        shop.start("3")
    folder = tracking.fetch_package(shop.settings, shop.runs["second"])
    (folder / "card.json").write_text("{}")
    with pytest.raises(ModelError, match="was changed after it was packaged"):
        shop.start()
    assert len(shop.store.generations()) == 1


def test_of_two_that_start_at_once_one_is_told_that_it_lost(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    add = Store.add_generation

    def second(store: Store, row: Mapping[str, Any]) -> None:
        monkeypatch.setattr(Store, "add_generation", add)
        add(store, {**row, "run_key": "quicker", "actor": "grace"})
        add(store, row)

    monkeypatch.setattr(Store, "add_generation", second)
    with pytest.raises(LostRace, match=r"generation 2 \(canary by grace\) came in between; nothing was changed"):
        shop.start()
    assert [row["run_key"] for row in shop.store.generations()] == ["key-1", "quicker"]


def test_what_stood_beside_the_champion_is_kept_by_retention(shop: Shop) -> None:
    shop.start()
    canary.drop(shop.settings, shop.recipe, reason="enough", run_key="enough")
    records = Records(
        generations=shop.store.generations(), decisions=[], evidence={}, trainings=[], aliases={}
    )  # fmt: skip
    found = references(records, now=SOON, days=0, in_flight_days=1)
    assert found.versions["2"] == "generation 2"
    assert found.runs[shop.runs["second"]] == "generation 2"


def test_an_answer_of_the_canary_is_explained_by_the_canary(shop: Shop) -> None:
    shop.start()
    answer(shop, {"champion": 0.9, "canary": 0.9}, senders=1, each=1)
    found_row = shop.store.predictions(since=NOW, until=SOON, arm="canary").iloc[0].to_dict()
    row = {str(name): value for name, value in found_row.items()}
    shop.store.upsert_predictions([{**row, "run_id": shop.runs["second"], "model_version": "2", "context": None}])
    found = explain.run(shop.settings, shop.recipe, prediction=row["prediction_id"], quick=True)
    assert (found["version"]["version"], found["run"]["run_id"]) == ("2", shop.runs["second"])
    assert found["judged"]["verdict"] == "PROMOTE"
    champions = explain.run(shop.settings, shop.recipe, quick=True)
    assert (champions["version"]["version"], champions["kind"]) == ("1", "canary")


# ------------------------------------------------------------------------------------------------- judging


@pytest.mark.usefixtures("database_url")
def test_a_canary_that_is_worse_is_dropped_by_itself(shop: Shop) -> None:
    automatic = shop.serving(automatic=True)
    automatic.start(weight=0.5)
    assert automatic.judge().verdict == "CONTINUE"
    answer(automatic, {"champion": 0.9, "canary": 0.4})
    found = automatic.judge()
    assert (found.verdict, found.acted, found.generation) == ("DROP", True, 3)
    row = shop.store.current()
    assert row is not None
    assert (row["kind"], row["actor"], row["canary_version"]) == ("drop", "classy canary", None)
    assert row["reason"].startswith("Accuracy is worse: 40.0% on 600 photos of 60 senders, the champion's 90.0%")
    decided = shop.store.decision("canary-2-drop")
    assert decided is not None
    assert (decided["kind"], decided["action"], decided["reason"]) == ("canary", "DROP", found.reason)
    evidence = json.loads(Path(str(found.evidence_uri)).read_text())
    assert (evidence["champion_version"], evidence["canary_version"], evidence["generations"]) == ("1", "2", [2])
    assert automatic.judge().verdict is None, "there is no canary any more"


def test_a_canary_that_holds_over_several_weights_is_promoted_by_itself(shop: Shop) -> None:
    automatic = shop.serving(automatic=True, margin=0.3)
    automatic.start(weight=0.1, name="B")
    answer(automatic, {"champion": 0.9, "canary": 0.92}, arm="B")
    canary.weight(automatic.settings, automatic.recipe, weight=0.4, reason="goes well", run_key="more")
    answer(automatic, {"champion": 0.9, "canary": 0.92}, arm="B")
    found = automatic.judge()
    assert (found.verdict, found.acted, found.name) == ("PROMOTE", True, "B"), found.reason
    assert "on 1,200 photos of 60 senders" in found.reason, "both weights count"
    row = shop.store.current()
    assert row is not None
    assert (row["champion_version"], row["previous_version"], row["kind"]) == ("2", "1", "promote")


@pytest.mark.parametrize("approval", [False, True])
def test_without_leave_the_judge_only_says_what_it_found(shop: Shop, approval: bool) -> None:
    quiet = shop.serving(automatic=approval, margin=0.3)
    gates = quiet.recipe.gates.model_copy(update={"approval": approval})
    quiet = replace(quiet, recipe=quiet.recipe.model_copy(update={"gates": gates}))
    quiet.start()
    answer(quiet, {"champion": 0.9, "canary": 0.9})
    found = quiet.judge()
    assert (found.verdict, found.acted, found.decision_key) == ("PROMOTE", False, "canary-2-promote")
    assert len(shop.store.generations()) == 2
    told = canary.show(quiet.settings, quiet.recipe, as_of=SOON)
    assert (told["verdict"], told["canary"]["version"]) == ("PROMOTE", "2")


def test_a_canary_that_nothing_decides_is_dropped_when_its_time_is_over(shop: Shop) -> None:
    automatic = shop.serving(automatic=True, max_days=1)
    automatic.start()
    found = canary.judge(automatic.settings, automatic.recipe, as_of=NOW + timedelta(days=2))
    assert (found.verdict, found.acted) == ("DROP", True)
    assert found.reason.startswith("Out of time: 2.0 days have not decided it (at most 1).")


def test_a_judge_that_was_overtaken_by_a_person_does_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    automatic = shop.serving(automatic=True)
    automatic.start()
    answer(automatic, {"champion": 0.9, "canary": 0.3})
    record = canary.trial.record

    def meanwhile(*given: Any) -> tuple[str, str]:
        canary.drop(shop.settings, shop.recipe, reason="by hand", actor="grace", run_key="by-hand")
        return record(*given)

    monkeypatch.setattr(canary.trial, "record", meanwhile)
    found = automatic.judge()
    assert (found.verdict, found.acted) == ("DROP", False)
    assert "Nothing was done: there is no canary to drop" in found.reason
    assert [row["actor"] for row in shop.store.generations()][-1] == "grace"


def test_the_registry_being_away_does_not_keep_a_bad_canary(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    automatic = shop.serving(automatic=True)
    automatic.start()
    answer(automatic, {"champion": 0.9, "canary": 0.3})

    def away(settings: Settings) -> Any:
        raise ClassyError("no MLflow server answers there")

    with monkeypatch.context() as patched:
        patched.setattr(tracking, "connect", away)
        assert automatic.judge().acted
    row = shop.store.current()
    assert row is not None
    assert row["canary_version"] is None
    assert aliases(shop.settings)["canary"] == "2"
    registry.project(tracking.connect(shop.settings), shop.settings, shop.store)
    assert "canary" not in aliases(shop.settings)


# ------------------------------------------------------------------------------------------ what is counted


@pytest.mark.usefixtures("database_url")
def test_answers_count_once_a_photo_by_sender_and_only_with_accepted_labels_known_by_then(settings: Settings) -> None:
    store = open_store(settings.database_url)
    base = {
        "captured_at": NOW, "predicted_at": NOW, "confidence": 0.9, "probabilities": [1.0], "model_version": "1",
        "run_id": "r", "generation": 2, "arm": "canary", "channel": "online", "service_hash": "h", "defaulted": False,
        "content_hash": None, "context": None, "timings": None, "cached": False, "request_id": None, "key_id": None,
    }  # fmt: skip
    said: list[tuple[str, str, str, dict[str, Any]]] = [
        ("a", "one", "1", {}), ("a-again", "one", "2", {"image_id": "a"}), ("b", "one", "1", {}),
        ("c", "unknown", "1", {}), ("d", "unknown", "1", {}), ("late", "one", "1", {}), ("bad", "one", "1", {}),
        ("batch", "one", "1", {"channel": "batch"}), ("before", "one", "1", {"generation": 1}),
        ("other", "one", "1", {"arm": "champion"}),
    ]  # fmt: skip
    store.upsert_predictions(
        {**base, "prediction_id": name, "image_id": name, "source_id": sender, "label": label, **more}
        for name, sender, label, more in said
    )
    labels: dict[str, tuple[str, datetime, str | None]] = dict.fromkeys(
        ("a", "b", "c", "d", "batch", "before", "other"), ("1", NOW, None)
    )
    labels |= {"late": ("1", SOON + timedelta(seconds=1), None), "bad": ("1", NOW, "no such class")}
    store.upsert_truth(
        {"image_id": name, "label": label, "labelled_at": at, "said_by": "ada", "rejected": why}
        for name, (label, at, why) in labels.items()
    )
    found = kept.answers(store, [2, 3], "canary", as_of=SOON)
    assert sorted(zip(found.right.tolist(), found.rows.tolist(), strict=True)) == [(1, 1), (1, 1), (1, 2)]


@pytest.mark.usefixtures("database_url")
def test_what_workers_counted_is_added_up_and_a_later_word_replaces_an_earlier(settings: Settings) -> None:
    store = open_store(settings.database_url)
    arm = Arm(name="canary", version="2", run_id="r", generation=2, loaded=None)  # type: ignore[arg-type]
    clock = [1_772_323_200.0]
    tallies = [Tally(name, clock=lambda: clock[0]) for name in ("w1", "w2")]
    writer = guard.Minutes(settings)
    for tally in tallies:
        for oks in ((True,), (True, False)):
            for ok in oks:
                tally.add(arm, 0.004, ok)
            rows = tally.rows()
            assert writer.write(rows)
            tally.written(rows)
        assert tally.rows() == []
    (minute,) = kept.minutes(store, [2], "canary")
    assert (minute.photos, minute.errors, minute.latencies) == (4, 2, {4.0: 4})


def test_minutes_wait_while_the_database_is_away_and_are_written_at_the_end(settings: Settings) -> None:
    """The folder of the database is a file at first."""
    away = settings.home / "away"
    away.parent.mkdir(parents=True)
    away.touch()
    lost = load_settings(home=settings.home, database_url=f"sqlite:///{away}/classy.db")
    tally = Tally("w1")
    tally.add(Arm(name="canary", version="2", run_id="r", generation=2, loaded=None), 0.004, True)  # type: ignore[arg-type]

    async def story() -> None:
        flushing = asyncio.create_task(guard.flush(lost, tally, 0.01))
        await asyncio.sleep(0.1)
        assert [row["photos"] for row in tally.rows()] == [1], "nothing is lost"
        away.unlink()
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)

    asyncio.run(story())
    assert tally.rows() == []
    assert [minute.photos for minute in kept.minutes(open_store(lost.database_url), [2], "canary")] == [1]


def test_the_guard_drops_a_bad_canary_and_outlives_a_database_that_is_away(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    automatic = shop.serving(automatic=True)
    automatic.start()
    answer(automatic, {"champion": 0.9, "canary": 0.3})
    judge, calls = canary.judge, []

    def stumbling(*given: Any, **more: Any) -> canary.Judged:
        calls.append(given)
        if len(calls) == 1:
            raise LostRace("the database is away")
        return judge(*given, **more)

    monkeypatch.setattr(canary, "judge", stumbling)

    async def story() -> None:
        watching = asyncio.create_task(guard.guard(automatic.settings, automatic.recipe, 0.01, clock=lambda: SOON))
        async with asyncio.timeout(30):
            while len(shop.store.generations()) < 3:
                await asyncio.sleep(0.02)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(story())
    assert [row["kind"] for row in shop.store.generations()] == ["promote", "canary", "drop"]
    asyncio.run(asyncio.wait_for(guard.guard(shop.settings, shop.recipe, 0.01), 5))  # not automatic: it returns


# ------------------------------------------------------------------------------------- what a server fetches


def test_a_package_is_fetched_once_verified_and_had_while_the_registry_is_away(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = shop.runs["first"]
    folder = packages.fetch(shop.settings, run_id)
    assert verify(folder) == folder.name

    def away(*_: Any) -> Any:
        raise ClassyError("no MLflow server answers there")

    with monkeypatch.context() as patched:
        patched.setattr(tracking, "fetch_package", away)
        assert packages.fetch(shop.settings, run_id) == folder
        with pytest.raises(Problem, match=f"model of run {shop.runs['second']}: cannot be fetched: no MLflow server"):
            packages.fetch(shop.settings, shop.runs["second"])
        (folder / "card.json").write_text("{}")
        with pytest.raises(Problem, match="cannot be fetched"):
            packages.fetch(shop.settings, run_id)
    assert verify(packages.fetch(shop.settings, run_id)) == folder.name, "it was fetched again"


def test_a_changed_copy_in_the_machines_cache_is_fetched_from_the_registry_again(shop: Shop) -> None:
    run_id = shop.runs["first"]
    cached = tracking.fetch_package(shop.settings, run_id)
    (cached / "model.onnx").write_bytes(b"something else")
    folder = packages.fetch(shop.settings, run_id)
    assert (verify(folder), verify(cached)) == (folder.name, folder.name)


def test_packages_that_were_not_served_for_longest_go_when_they_are_many(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "KEPT", 1)
    for name in ("first", "second"):
        packages.fetch(shop.settings, shop.runs[name])
    assert [entry.name for entry in packages.folder_of(shop.settings).iterdir()] == [shop.runs["second"]]


def test_the_last_row_is_known_after_a_restart_without_the_database(shop: Shop) -> None:
    assert Deployments(shop.settings).last_known() is None
    row = Deployments(shop.settings)()
    lost = load_settings(home=shop.settings.home, database_url=f"sqlite:///{shop.settings.home}/classy.db/no.db")
    restarted = Deployments(lost)
    with pytest.raises(Problem, match="the ledger cannot be read"):
        restarted()
    assert restarted.last_known() == row == shop.store.current()
    restarted.path.write_text("{")
    assert restarted.last_known() is None


def test_versions_by_hand_are_written_for_every_worker_and_found_in_the_registry(shop: Shop) -> None:
    hand = ByHand(shop.settings)
    assert hand.wanted() == {}
    assert hand.resolve("2") == shop.runs["second"]
    hand.want({"2": shop.runs["second"]})
    assert ByHand(shop.settings).wanted() == {"2": shop.runs["second"]}
    hand.path.write_text("[")
    assert hand.wanted() == {}
    for wrong, reason in (("9", "not_found"), ("nine", "bad_request")):
        with pytest.raises(Problem) as caught:
            hand.resolve(wrong)
        assert caught.value.reason == reason
