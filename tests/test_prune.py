"""Retention: what nothing refers to goes, what a generation names never does; also under a race and a kill."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from pipelines import files, prune
from pipelines.cli import app
from pipelines.commands import production
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.recipe import Recipe
from pipelines.retention import attic
from pipelines.retention.attic import Attic
from pipelines.retention.rules import Thing
from pipelines.settings import Settings
from tests.attics import NOW, OLD, YOUNG, World, make_attic, milliseconds


@pytest.fixture
def world(settings: Settings, recipe: Recipe) -> World:
    return make_attic(settings, recipe)


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
from pipelines.recipe import Recipe
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
