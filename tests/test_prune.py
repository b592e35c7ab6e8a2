"""Retention: what nothing refers to goes, what a generation names never does; also under a race and a kill."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from monitoring.stores import Store, open_store
from pipelines import files, prune
from pipelines.cli import app
from pipelines.commands import production
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.prune import Pruned
from pipelines.recipe import Recipe
from pipelines.retention import attic
from pipelines.retention.attic import Attic
from pipelines.retention.rules import Records, Thing, Training, references, rule
from pipelines.settings import Settings
from tests.judged import ready_mlflow

NOW = datetime.now(UTC) + timedelta(days=100)
"""MLflow dates a version by the real clock: seen from here, what a test makes is a hundred days old."""
OLD = NOW - timedelta(days=60)
YOUNG = NOW - timedelta(days=2)


def milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


@dataclass(kw_only=True, slots=True)
class World:
    """Records and things by hand: nothing is trained."""

    settings: Settings
    recipe: Recipe
    client: MlflowClient
    store: Store
    runs: dict[str, str] = field(default_factory=dict)
    """Run key → run id."""
    versions: dict[str, str] = field(default_factory=dict)

    def train(self, key: str, *, at: datetime = OLD, finished: bool = True, version: bool = True) -> str:
        """A snapshot, a run on it, its checkpoint folder, its fetched package and its version, all of one time."""
        self.snapshot(f"snap-{key}", at=at)
        tags = {
            tracking.RUN_KEY: key, tracking.CANDIDATE: "resnet", tracking.SNAPSHOT_ID: f"snap-{key}",
            tracking.PACKAGE_SHA256: f"sha-{key}", **({tracking.TRAINED: "{}"} if finished else {}),
        }  # fmt: skip
        run = self.client.create_run(tracking.experiment_id(self.client), start_time=milliseconds(at), tags=tags)
        run_id = self.runs[key] = run.info.run_id
        if finished:
            self.client.set_terminated(run_id, end_time=milliseconds(at))
            self.client.log_metric(run_id, "package_bytes", 1000, timestamp=milliseconds(at))
        state = self.settings.home / "runs" / key / "resnet"
        touch(state / "checkpoint.safetensors", at)
        touch(self.settings.home / "cache" / "models" / f"sha-{key}" / "model.onnx", at)
        touch(self.settings.home / "cache" / "models" / "references" / f"{run_id}.parquet", at)
        if version:
            name = self.settings.model_name
            made = self.client.create_model_version(name, f"runs:/{run_id}/model", run_id, tags={"classy.run_key": key})
            self.versions[key] = str(made.version)
        return run_id

    def snapshot(self, name: str, *, at: datetime = OLD) -> str:
        uri = files.join(self.settings.data_root, "snapshots", name)
        with files.new_partition(uri) as draft:
            (draft.folder / "rows.parquet").write_bytes(b"r" * 500)
            draft.meta = {"snapshot_id": name, "as_of": "2020-01-01T00:00:00+00:00", "ok": True}
        touch(Path(uri) / files.MANIFEST, at)
        return uri

    def judge(self, key: str, verdict: str = "PROMOTE", *, at: datetime = OLD, against: str | None = None) -> None:
        """The verdict on the contender of `key`; `against` is the champion's run key."""
        row = {
            "run_key": key,
            "contender": {"run_id": self.runs[key], "version": self.versions[key], "trained_on": f"snap-{key}"},
            "opponent": {"run_id": self.runs.get(against or ""), "version": self.versions.get(against or "")},
            "champion_version": self.versions.get(against or ""),
            "snapshot": {"id": f"snap-{key}"},
        }
        uri = files.join(self.settings.data_root, "judge", key, "evidence.json")
        files.write_text(uri, json.dumps(row))
        digest = hashlib.sha256(json.dumps(row).encode()).hexdigest()
        self.decide(f"judge-{key}", "judge", verdict, key, at, uri, digest)

    def decide(
        self, name: str, kind: str, action: str, key: str, at: datetime, uri: str | None = None, sha: str | None = None
    ) -> None:
        self.store.record_decision(
            {
                "decision_key": name,
                "kind": kind,
                "action": action,
                "reason": "",
                "run_key": key,
                "evidence_uri": uri,
                "evidence_hash": sha,
                "actor": "tester",
                "as_of": at,
                "created_at": at,
            }
        )

    def promote(self, key: str, *, at: datetime = OLD) -> None:
        current, judged = self.store.current(), self.store.decision(f"judge-{key}")
        assert judged is not None
        self.store.add_generation(
            {
                "generation": current["generation"] + 1 if current else 1,
                "champion_version": self.versions[key],
                "champion_run_id": self.runs[key],
                "canary_version": None,
                "canary_weight": 0.0,
                "previous_version": current["champion_version"] if current else None,
                "shadow_version": None,
                "kind": "promote",
                "actor": "tester",
                "reason": "",
                "run_key": key,
                "as_of": at,
                "created_at": at,
                "evidence_uri": judged["evidence_uri"],
                "evidence_hash": judged["evidence_hash"],
            }
        )

    def prune(self, **given: Any) -> Pruned:
        return prune.run(self.settings, self.recipe, now=NOW, **given)

    def left(self) -> dict[str, set[str]]:
        """What is there: snapshots, versions, runs by run key, checkpoints by run key, fetched packages."""
        name = f"name = '{self.settings.model_name}'"
        active = self.client.search_runs([tracking.experiment_id(self.client)])
        home = self.settings.home
        return {
            "snapshots": {path.name for path in (Path(self.settings.data_root) / "snapshots").iterdir()},
            "versions": {version.tags["classy.run_key"] for version in self.client.search_model_versions(name)},
            "runs": {run.data.tags[tracking.RUN_KEY] for run in active},
            "checkpoints": {path.name for path in (home / "runs").iterdir()},
            "packages": {path.name for path in (home / "cache" / "models").glob("sha-*")},
        }


def touch(path: Path, at: datetime) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(b"x" * 100)
    for one in (path, path.parent):
        os.utime(one, (at.timestamp(), at.timestamp()))


@pytest.fixture
def world(settings: Settings, recipe: Recipe) -> World:
    """`champion` serves, `before` did; `lost`, `old` and `given-up` are of nobody's interest any more."""
    ready_mlflow(settings)
    client = tracking.connect(settings)
    client.create_registered_model(settings.model_name)
    made = World(settings=settings, recipe=recipe, client=client, store=open_store(settings.database_url))
    for key in ("before", "champion", "lost", "old"):
        made.train(key)
    made.train("given-up", finished=False, version=False)
    made.judge("before")
    made.promote("before")
    made.judge("old", against="before")
    made.judge("champion", against="before")
    made.promote("champion")
    made.judge("lost", "HOLD", against="champion")
    return made


def names(items: list[prune.Item]) -> set[str]:
    return {f"{item.what} {item.name}" for item in items}


# ------------------------------------------------------------------------------------------ what may go


def test_without_yes_nothing_goes_and_all_is_said(world: World) -> None:
    before = world.left()
    found = world.prune()
    assert not found.deleted
    assert found.receipt_uri is None
    assert world.left() == before
    goes = names(found.goes)
    assert {"snapshot snap-lost", "snapshot snap-old", "snapshot snap-given-up"} <= goes
    assert {f"version {world.versions['lost']}", f"version {world.versions['old']}"} <= goes
    assert {"checkpoint lost/resnet", "checkpoint given-up/resnet", "cache models/sha-lost"} <= goes
    assert not {name for name in goes if "champion" in name and not name.startswith("checkpoint")}
    stays = {f"{item.what} {item.name}": item.why for item in found.stays}
    assert stays["snapshot snap-champion"] == "kept for generation 2"
    assert stays["snapshot snap-before"] == "kept for generation 1"
    assert stays["cache models/sha-before"] == "kept for generation 1"
    assert found.bytes == sum(item.bytes for item in found.goes) > 3 * 500 + 2 * 1000
    assert all(item.age_days >= 30 for item in found.goes)


def test_with_yes_it_goes_and_what_a_generation_names_stays(world: World) -> None:
    touched = {path for path in Path(world.settings.data_root).rglob("*") if "snapshots" not in path.parts}
    found = world.prune(delete=True)
    assert world.left() == {
        "snapshots": {"snap-before", "snap-champion"},
        "versions": {"before", "champion"},
        "runs": {"before", "champion", "given-up"},
        "checkpoints": set(),
        "packages": {"sha-before", "sha-champion"},
    }
    assert all(path.exists() for path in touched), "evidence and all else in the data root stays"
    assert names(world.prune(delete=True).goes) == set(), "a second time there is nothing to do"
    assert found.deleted


def test_what_went_is_in_a_receipt_and_in_the_ledger(world: World) -> None:
    newest = max(row["as_of"] for row in world.store.decisions())
    found = world.prune(delete=True, actor="grace")
    assert found.receipt_uri is not None
    text = Path(found.receipt_uri).read_text()
    receipt = json.loads(text)
    assert {f"{item['what']} {item['name']}" for item in receipt["done"]} == names(found.goes)
    assert receipt["not_reached"] == []
    (row,) = world.store.decisions("prune")
    assert (row["actor"], row["evidence_uri"]) == ("grace", found.receipt_uri)
    assert row["evidence_hash"] == hashlib.sha256(text.encode()).hexdigest()
    assert "3 snapshots" in row["reason"]
    assert row["as_of"] == newest, "deleting moves no data time"


def test_a_run_that_went_can_be_restored_until_mlflow_collects_it(world: World) -> None:
    world.prune(delete=True, what=["versions"])
    assert world.client.get_run(world.runs["lost"]).info.lifecycle_stage == "deleted"
    world.client.restore_run(world.runs["lost"])
    assert "lost" in world.left()["runs"]


@pytest.mark.parametrize("kind", prune.KINDS)
def test_only_what_was_asked_for_goes(world: World, kind: str) -> None:
    found = world.prune(what=[kind])
    assert {f"{item.what}s" for item in [*found.goes, *found.stays]} == {kind}
    assert found.goes


def test_less_than_a_day_and_unknown_kinds_are_refused(world: World) -> None:
    with pytest.raises(ClassyError, match="older than 0 days: at least 1"):
        world.prune(older_than_days=0)
    with pytest.raises(ClassyError, match="what=shards: choose some of versions,checkpoints,caches,snapshots"):
        world.prune(what=["snapshots", "shards"])


def test_without_mlflow_nobody_can_say_what_refers_to_what(world: World) -> None:
    down = world.settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    with pytest.raises(ClassyError, match="no MLflow server answers"):
        prune.run(down, world.recipe, now=NOW)


# -------------------------------------------------------------------------------------------- what stays


def stays(world: World, what: str, **given: Any) -> str | None:
    """Why it stays, or None where it goes."""
    found = world.prune(**given)
    return next((item.why for item in found.stays if f"{item.what} {item.name}" == what), None)


def test_what_is_younger_stays(world: World) -> None:
    world.train("new", at=YOUNG)
    for what in ("snapshot snap-new", "checkpoint new/resnet", "cache models/sha-new"):
        assert stays(world, what) is not None, what
        assert stays(world, what, older_than_days=1) is None, what
    assert stays(world, f"version {world.versions['new']}") is not None


def test_an_old_snapshot_that_a_young_run_uses_stays(world: World) -> None:
    tags = {tracking.RUN_KEY: "again", tracking.SNAPSHOT_ID: "snap-lost"}
    world.client.create_run(tracking.experiment_id(world.client), start_time=milliseconds(YOUNG), tags=tags)
    assert "younger than 30 days" in str(stays(world, "snapshot snap-lost"))


def test_a_training_that_began_long_ago_and_still_goes_on_keeps_its_snapshot(world: World) -> None:
    assert stays(world, "snapshot snap-given-up") is None
    world.client.log_metric(world.runs["given-up"], "epoch_train_loss", 0.5, timestamp=milliseconds(YOUNG), step=9)
    assert "younger than 30 days" in str(stays(world, "snapshot snap-given-up"))


def test_a_young_verdict_keeps_what_it_names(world: World) -> None:
    world.train("refused")
    world.judge("refused", "HOLD", at=YOUNG, against="champion")
    for what in ("snapshot snap-refused", f"version {world.versions['refused']}", "checkpoint refused/resnet"):
        assert stays(world, what) == "kept for judge-refused (young)"


def test_a_verdict_that_can_still_be_promoted_is_kept_however_old(world: World) -> None:
    world.train("waiting")
    world.judge("waiting", against="champion")
    assert stays(world, "snapshot snap-waiting") == "kept for judge-waiting, which could be promoted"
    assert stays(world, f"version {world.versions['waiting']}") is not None
    world.decide("approval-waiting", "approval", "REJECT", "waiting", OLD)
    assert stays(world, "snapshot snap-waiting") is None, "a person rejected it"


def test_a_training_that_was_asked_for_keeps_its_checkpoint_until_it_is_given_up(world: World) -> None:
    in_flight = NOW - timedelta(days=world.recipe.policy.in_flight_days - 1)
    world.decide("monitor-1", "monitor", "RETRAIN", "given-up", in_flight)
    assert "under way" in str(stays(world, "checkpoint given-up/resnet", older_than_days=1))
    assert "under way" in str(stays(world, "snapshot snap-given-up", older_than_days=1))
    given_up = world.recipe.model_copy(update={"policy": world.recipe.policy.model_copy(update={"in_flight_days": 0})})
    found = prune.run(world.settings, given_up, now=NOW, older_than_days=1)
    assert "checkpoint given-up/resnet" in names(found.goes)


def test_a_training_that_works_now_keeps_its_folder(world: World) -> None:
    folder = world.settings.home / "runs" / "lost" / "resnet"
    with FileLock(folder / "lock"):
        os.utime(folder / "lock", (OLD.timestamp(), OLD.timestamp()))
        os.utime(folder, (OLD.timestamp(), OLD.timestamp()))
        found = world.prune(delete=True, what=["checkpoints"])
    assert folder.is_dir()
    assert "a training is working there now" in next(i.why for i in found.stays if i.name == "lost/resnet")


def test_a_version_with_an_alias_stays(world: World) -> None:
    version = world.versions["lost"]
    world.client.set_registered_model_alias(world.settings.model_name, "liked", version)
    assert stays(world, f"version {version}") == "kept for alias liked"


def test_while_a_generations_evidence_cannot_be_read_no_snapshot_goes(world: World) -> None:
    path = Path(world.settings.data_root) / "judge" / "before" / "evidence.json"
    path.write_text(path.read_text() + " ")
    found = world.prune()
    assert not [item for item in found.goes if item.what == "snapshot"]
    assert stays(world, "snapshot snap-lost") == "kept, because generation 1's evidence cannot be read"
    assert [item for item in found.goes if item.what == "version"], "the rest can still be told"


# --------------------------------------------------------------------------------------- races and kills


def test_what_a_promotion_names_in_the_meantime_is_not_deleted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    remove, promoted = Attic.remove, []

    def promote_meanwhile(self: Attic, thing: Thing) -> None:
        if not promoted:
            promoted.append("old" if thing.name == world.versions["lost"] else "lost")
            world.promote(promoted[0])
        remove(self, thing)

    monkeypatch.setattr(Attic, "remove", promote_meanwhile)
    found = world.prune(delete=True)
    (key,) = promoted
    left = world.left()
    assert key in left["versions"]
    assert f"snap-{key}" in left["snapshots"]
    assert f"sha-{key}" in left["packages"]
    why = next(item.why for item in found.stays if item.name == f"snap-{key}")
    assert why == "kept for generation 3 (since it was listed)"


KILLED = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from pipelines import prune
from pipelines.retention import attic
from pipelines.recipe import Recipe
from pipelines.settings import load_settings
attic.shutil.rmtree = lambda path, **_: os.kill(os.getpid(), signal.SIGKILL)
settings = load_settings(home=Path(sys.argv[1]), actor="tester", threads=1)
recipe = Recipe.model_validate_json(sys.argv[2])
prune.run(settings, recipe, now=datetime.fromisoformat(sys.argv[3]), what=[sys.argv[4]], delete=True)
"""


@pytest.mark.parametrize("kind", ["snapshots", "checkpoints"])
def test_killed_in_the_middle_of_a_deletion_the_next_prune_finishes(world: World, kind: str) -> None:
    given = [str(world.settings.home), world.recipe.model_dump_json(by_alias=True), NOW.isoformat(), kind]
    killed = subprocess.run([sys.executable, "-c", KILLED, *given], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    snapshots = files.join(world.settings.data_root, "snapshots")
    if kind == "snapshots":
        assert len(files.list_partitions(snapshots)) == 4, "what was being deleted is gone for readers, and whole"
    (receipt,) = (Path(world.settings.data_root) / "pruned").iterdir()
    assert len(json.loads(receipt.read_text())["not_reached"]) >= 3, "what it was about is on record"
    again = world.prune(delete=True)
    assert [item.why for item in again.goes if item.name.endswith(attic.ASIDE)] == ["a deletion was killed"]
    assert world.left()["snapshots"] == {"snap-before", "snap-champion"}
    assert world.left()["checkpoints"] == set()


def test_on_a_store_without_a_rename_the_manifest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "memory://prune/snapshots/one"
    with files.new_partition(uri) as draft:
        (draft.folder / "rows.parquet").write_bytes(b"rows")
    fs, path = fsspec.url_to_fs(uri)
    remove, seen = type(fs).rm_file, []

    def killed(self: Any, name: str) -> None:
        seen.append(name.rsplit("/", 1)[-1])
        if len(seen) == 2:
            raise KeyboardInterrupt
        remove(self, name)

    monkeypatch.setattr(type(fs), "rm_file", killed)
    with pytest.raises(KeyboardInterrupt):
        attic.remove_folder(uri)
    assert seen[0] == files.MANIFEST
    assert files.list_partitions("memory://prune/snapshots") == []
    monkeypatch.setattr(type(fs), "rm_file", remove)
    (left,) = attic._left_over("snapshot", "memory://prune/snapshots")
    assert left.left_over
    attic.remove_folder(left.uri)
    assert not fs.exists(path)
    attic.remove_folder(left.uri)  # gone already


# ----------------------------------------------------------------------------------------- any ledger

NAMES = st.integers(0, 7).map(str)
DAYS = st.integers(0, 90)


@st.composite
def records(draw: st.DrawFn) -> Records:
    """Any ledger about eight versions: run N made version N on some snapshot under run key N."""
    snapshots = {name: draw(NAMES) for name in map(str, range(8))}
    trainings = [
        Training(run_id=f"run-{n}", run_key=f"key-{n}", candidate="c", snapshot_id=snapshots[n], finished=True,
                 newest=NOW - timedelta(days=draw(DAYS)))
        for n in map(str, range(8)) if draw(st.booleans())
    ]  # fmt: skip
    evidence: dict[str, Any] = {}
    decisions = []
    for n in draw(st.lists(NAMES, unique=True)):
        against = draw(st.none() | NAMES)
        readable = draw(st.booleans())
        evidence[f"uri-{n}"] = {
            "contender": {"run_id": f"run-{n}", "version": n, "trained_on": snapshots[n]},
            "opponent": {"run_id": against and f"run-{against}", "version": against, "trained_on": None},
            "champion_version": against, "snapshot": {"id": snapshots[n]}, "candidates": [f"run-{n}"],
        } if readable else None  # fmt: skip
        decisions.append(
            {"decision_key": f"judge-{n}", "kind": "judge", "action": draw(st.sampled_from(["PROMOTE", "HOLD"])),
             "run_key": f"key-{n}", "evidence_uri": f"uri-{n}", "created_at": NOW - timedelta(days=draw(DAYS))}
        )  # fmt: skip
    generations = [
        {"generation": number, "champion_version": n, "champion_run_id": f"run-{n}", "previous_version": None,
         "canary_version": draw(st.none() | NAMES), "shadow_version": None, "evidence_uri": f"uri-{n}"}
        for number, n in enumerate(draw(st.lists(NAMES, max_size=4)), 1)
    ]  # fmt: skip
    aliases = dict.fromkeys(draw(st.lists(NAMES, max_size=2)), "alias")
    return Records(
        generations=generations, decisions=decisions, evidence=evidence, trainings=trainings, aliases=aliases
    )


def every_thing(found: Records, age: int) -> list[Thing]:
    newest = NOW - timedelta(days=age)
    made = []
    for n in map(str, range(8)):
        shared = {"uri": n, "bytes": 1, "newest": newest, "because": "nobody"}
        made += [
            Thing(what="version", name=n, run_ids=(f"run-{n}",), run_key=f"key-{n}", **shared),
            Thing(what="snapshot", name=n, **shared),
            Thing(what="cache", name=f"models/{n}", run_ids=(f"run-{n}",), **shared),
            Thing(what="checkpoint", name=f"key-{n}/c", run_key=f"key-{n}", **shared),
        ]
    return made


@given(found=records(), age=st.integers(0, 90), days=st.integers(1, 60))
@example_settings(max_examples=300, deadline=None)
def test_whatever_the_ledger_nothing_that_is_referred_to_goes(found: Records, age: int, days: int) -> None:
    refs = references(found, now=NOW, days=days, in_flight_days=7)
    goes = {(item.what, item.name) for item in rule(every_thing(found, age), refs, now=NOW, days=days) if item.goes}
    assert not goes or age >= days
    by_run = {training.run_id: training for training in found.trainings}
    needed: set[tuple[str, str]] = {("version", version) for version in found.aliases}
    for row in found.generations:
        document = found.evidence.get(row["evidence_uri"])
        versions = {row["champion_version"], row["canary_version"]}
        snapshots = {by_run[row["champion_run_id"]].snapshot_id} if row["champion_run_id"] in by_run else set()
        if document is None:
            assert not [name for what, name in goes if what == "snapshot"]
        else:
            versions |= {document["opponent"]["version"]}
            snapshots |= {document["snapshot"]["id"]}
        needed |= {("version", name) for name in versions} | {("snapshot", name) for name in snapshots}
        needed.add(("cache", f"models/{row['champion_version']}"))
    current = found.generations[-1]["champion_version"] if found.generations else None
    for row in found.decisions:
        document, n = found.evidence[row["evidence_uri"]], row["run_key"].removeprefix("key-")
        open_still = row["action"] == "PROMOTE" and document is not None and document["champion_version"] == current
        if open_still or NOW - row["created_at"] < timedelta(days=days):
            needed |= {("checkpoint", f"key-{n}/c"), ("version", n)}
            needed |= {("snapshot", document["snapshot"]["id"])} if document else set()
    for training in found.trainings:
        if NOW - training.newest < timedelta(days=days):
            needed |= {("snapshot", str(training.snapshot_id)), ("cache", f"models/{training.run_id[4:]}")}
    assert not goes & needed


@given(age=st.integers(1, 90))
def test_in_an_empty_ledger_all_that_is_old_goes(age: int) -> None:
    empty = Records(generations=[], decisions=[], evidence={}, trainings=[], aliases={})
    refs = references(empty, now=NOW, days=30, in_flight_days=7)
    items = rule(every_thing(empty, age), refs, now=NOW, days=30)
    assert {item.goes for item in items} == {age >= 30}


def test_what_has_no_age_stays() -> None:
    empty = Records(generations=[], decisions=[], evidence={}, trainings=[], aliases={})
    thing = Thing(what="snapshot", name="s", uri="s", bytes=None, newest=None, because="nobody")
    (item,) = rule([thing], references(empty, now=NOW, days=30, in_flight_days=7), now=NOW, days=30)
    assert (item.goes, item.why) == (False, "nothing says how old it is")


# ---------------------------------------------------------------------------------------------- terminal


class Later(datetime):
    """The clock of the command, in a world where all is a hundred days old."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return NOW


def test_the_command_looks_and_deletes_only_with_yes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "datetime", Later)
    env = {"CLASSY_HOME": str(world.settings.home), "CLASSY_RECIPE": "digits", "COLUMNS": "100"}

    def classy(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["prune", *arguments], env=env, catch_exceptions=False)

    before = world.left()
    looked = classy("--what", "snapshots,checkpoints")
    assert (looked.exit_code, world.left()) == (0, before)
    assert "Nothing was deleted: --yes deletes." in " ".join(looked.output.split())
    found = json.loads(classy("--what", "snapshots", "--json").stdout)
    assert set(found) == {"deleted", "older_than_days", "goes", "stays", "bytes", "receipt_uri"}
    assert set(found["goes"][0]) == {"what", "name", "uri", "bytes", "age_days", "goes", "why"}
    done = classy("--what", "snapshots", "--yes")
    assert "Receipt: " in done.output
    assert world.left()["snapshots"] == {"snap-before", "snap-champion"}
