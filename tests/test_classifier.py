"""The classifier: who is answered by which model, what is refused, what is logged, and the shadow behind."""

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from monitoring.tables import METADATA, predictions
from serving.components.base import Call, Identity
from serving.components.classifier import Classifier, prediction_id
from serving.engines.loaded import Loaded
from serving.messages import InferRequest, Tensor
from serving.photos import Photo
from serving.pictures import STATS
from serving.problems import Problem
from serving.recall import Recall, fingerprint_of
from serving.runtime import load_model
from serving.versions.arms import Arm, Arms, Lineup
from tests.packages import CLASSES, SERVICE_HASH, make_package

AT = datetime(2026, 3, 7, 12, tzinfo=UTC)
NAMES = (*STATS, "photos", "share")
SIZE = 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("classifier")
    return {
        "one": make_package(root / "one", seed=1, context_names=NAMES),
        "two": make_package(root / "two", seed=2, context_names=NAMES),
        "padded": make_package(root / "padded", seed=1, context_names=NAMES, fit="pad"),
        "other_service": make_package(root / "other", seed=1, context_names=NAMES, service_hash="f" * 12),
    }


@dataclass(slots=True)
class Senders:
    """A feature source in memory: the photo's stats and two numbers about its sender."""

    service_hash: str = SERVICE_HASH
    known: dict[str, tuple[float, float]] = field(default_factory=lambda: {"41": (3.0, 0.5)})
    away: bool = False
    threads: set[str] = field(default_factory=set)

    def ready(self) -> str | None:
        return None

    def remembered(self, sender: str, at: datetime) -> str | None:
        return None

    def fill(self, photos: Sequence[Photo], at: datetime) -> None:
        assert at == AT
        self.threads.add(threading.current_thread().name)
        if self.away:
            raise Problem("unavailable", "features: the store cannot be read")
        for photo in photos:
            assert photo.stats is not None
            more = self.known.get(photo.sender)
            photo.context = np.array([*photo.stats, *(more or (0.0, 0.0))], np.float32)
            photo.defaulted = more is None

    def fingerprint(self, sender: str, at: datetime) -> str:
        return fingerprint_of(np.array([*[0.0] * len(STATS), *self.known.get(sender, (0.0, 0.0))], np.float32))


class Kept(list[dict[str, Any]]):
    """A prediction log in memory."""

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        self.extend(rows)


class Counted(list[tuple[str, bool]]):
    def add(self, arm: Arm, seconds: float, ok: bool) -> None:
        assert seconds > 0
        self.append((arm.name, ok))


@dataclass(slots=True)
class Stand:
    """A classifier and what is around it."""

    classifier: Classifier
    arms: Arms
    features: Senders
    log: Kept
    counts: Counted
    recall: Recall

    async def ask(self, *photos: Photo, **parameters: Any) -> list[Photo]:
        call = Call(
            id="request-1",
            parameters=parameters,
            identity=Identity(subject="shop", scopes=frozenset({"infer"}), key_id="k1"),
        )
        await self.classifier.apply(photos, call)
        return list(photos)


def arm(name: str, folder: Path, version: str = "1", **options: Any) -> Arm:
    loaded = Loaded.open(folder, runtime="onnxruntime", **options)
    loaded.start()
    return Arm(name=name, version=version, run_id=f"run-{version}", generation=5, loaded=loaded)


@asynccontextmanager
async def stand(champion: Arm, **lineup: Any) -> AsyncIterator[Stand]:
    counts, log, features, recall = Counted(), Kept(), Senders(), Recall(100)
    arms = Arms(counts)
    arms.swap(Lineup(champion=champion, **lineup))
    classifier = Classifier(arms, features, log, clock=lambda: AT, recall=recall)
    try:
        yield Stand(classifier, arms, features, log, counts, recall)
    finally:
        await classifier.stop()
        for found in arms.all():
            await found.loaded.stop()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 30))


def photo(seed: int = 0, **fields: Any) -> Photo:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    stats = rng.random(len(STATS)).astype(np.float32)
    return Photo(**{"image": image, "stats": stats, "sender": "41", **fields})


# ------------------------------------------------------------------------------------------------- answers


def test_a_photo_is_answered_with_its_senders_features_as_the_model_itself_would(folders: dict[str, Path]) -> None:
    async def main() -> None:
        async with stand(arm("champion", folders["one"], "3")) as here:
            known, unknown = await here.ask(photo(1), photo(2, sender="99"))
            wanted = load_model(folders["one"], threads=1).predict(
                np.stack([known.image, unknown.image]),  # type: ignore[list-item]
                np.array([[*known.stats, 3.0, 0.5], [*unknown.stats, 0.0, 0.0]], np.float32),  # type: ignore[misc]
            )
            for found, row in zip((known, unknown), wanted.probabilities, strict=True):
                np.testing.assert_allclose(found.probabilities, row, atol=1e-5)
                assert (found.label, found.confidence) == (CLASSES[row.argmax()], pytest.approx(row.max(), abs=1e-5))
                assert (found.arm, found.model_version, found.generation, found.cached) == ("champion", "3", 5, False)
            assert (known.defaulted, unknown.defaulted) == (False, True)
            assert here.counts == [("champion", True)] * 2
            assert all(name.startswith("model ") for name in here.features.threads)

    run(main)


def test_a_context_of_the_callers_own_is_used_and_nothing_is_looked_up(folders: dict[str, Path]) -> None:
    async def main() -> None:
        async with stand(arm("champion", folders["one"])) as here:
            context = np.arange(len(NAMES), dtype=np.float32)
            (found,) = await here.ask(photo(1, stats=None, context=context))
            wanted = load_model(folders["one"], threads=1).predict(found.image[None], context[None])  # type: ignore[index]
            np.testing.assert_allclose(found.probabilities, wanted.probabilities[0], atol=1e-5)
            assert not here.features.threads

    run(main)


def test_one_bad_photo_does_not_fail_the_others(folders: dict[str, Path]) -> None:
    async def main() -> None:
        async with stand(arm("champion", folders["one"])) as here:
            spoilt = Problem("unsupported", "no photo")
            found = await here.ask(
                photo(0),
                photo(1, image=np.zeros((8, 8, 3), np.uint8)),
                photo(2, context=np.zeros(2, np.float32)),
                photo(3, context=np.full(len(NAMES), np.inf, np.float32)),
                photo(4, stats=None),
                photo(5, image_spec="0123456789ab"),
                photo(6, problem=spoilt),
                photo(7, image=None),
            )
            assert found[0].problem is None
            said = [(one.problem.kind.status, str(one.problem)) for one in found[1:] if one.problem]
            assert [status for status, _ in said] == [422, 422, 422, 400, 422, 415, 400]
            ours = next(iter(here.arms.all())).loaded.image_digest
            assert "made as 0123456789ab" in said[4][1]
            assert ours in said[4][1]
            assert found[6].problem is spoilt
            assert len(here.log) == 1
            assert here.counts == [("champion", True)], "what a client sends wrong is no model's error"

    run(main)


def test_features_of_another_definition_are_not_given_to_a_model(folders: dict[str, Path]) -> None:
    async def main() -> None:
        async with stand(arm("champion", folders["other_service"], "8")) as here:
            looked_up, own = await here.ask(photo(1), photo(2, context=np.zeros(len(NAMES), np.float32)))
            assert looked_up.problem is not None
            assert looked_up.problem.kind.status == 503
            assert "version 8" in str(looked_up.problem)
            assert "f" * 12 in str(looked_up.problem)
            assert SERVICE_HASH in str(looked_up.problem)
            assert own.problem is None

    run(main)


def test_a_store_that_is_away_is_the_servers_fault_and_counted_so(folders: dict[str, Path]) -> None:
    async def main() -> None:
        async with stand(arm("champion", folders["one"])) as here:
            here.features.away = True
            (found,) = await here.ask(photo(1))
            assert found.problem is not None
            assert found.problem.kind.status == 503
            assert here.counts == [("champion", False)]
            assert here.log == []

    run(main)


def test_senders_are_divided_between_champion_and_canary_and_stay_where_they_are(folders: dict[str, Path]) -> None:
    async def main() -> None:
        canary = arm("canary", folders["two"], "2")
        async with stand(arm("champion", folders["one"]), canary=canary, weight=0.5) as here:
            senders = [f"sender-{number}" for number in range(24)]
            first = await here.ask(*(photo(row, sender=sender) for row, sender in enumerate(senders)))
            again = await here.ask(*(photo(50 + row, sender=sender) for row, sender in enumerate(senders)))
            by_sender = {one.sender: one.arm for one in first}
            assert {one.sender: one.arm for one in again} == by_sender
            assert set(by_sender.values()) == {"champion", "canary"}
            assert {one.arm: one.model_version for one in first} == {"champion": "1", "canary": "2"}
            assert {row["arm"] for row in here.log} == {"champion", "canary"}

    run(main)


def test_an_arm_or_a_version_can_be_asked_for_by_name(folders: dict[str, Path]) -> None:
    async def main() -> None:
        other = arm("loaded", folders["two"], "9")
        async with stand(arm("champion", folders["one"]), others=(other,)) as here:
            assert (await here.ask(photo(1), version="9"))[0].model_version == "9"
            assert (await here.ask(photo(1), arm="champion"))[0].model_version == "1"
            with pytest.raises(Problem, match="arm 'nobody'") as unknown:
                await here.ask(photo(1), arm="nobody")
            assert unknown.value.kind.status == 404
            request = InferRequest(
                "classifier",
                [
                    Tensor("image", "UINT8", (1, SIZE, SIZE, 3), np.zeros((1, SIZE, SIZE, 3), np.uint8)),
                    Tensor("context", "FP32", (1, len(NAMES)), np.zeros((1, len(NAMES)), np.float32)),
                ],
                version="9",
            )
            response = await here.classifier.infer(request, Call())
            version = next(tensor for tensor in response.outputs if tensor.name == "model_version")
            assert version.data == [b"9"]

    run(main)


def test_a_full_model_refuses_the_request_and_answers_later_ones(folders: dict[str, Path]) -> None:
    async def main() -> None:
        async with stand(arm("champion", folders["one"], queue=2)) as here:
            with pytest.raises(Problem, match="send 2 or fewer"):
                await here.ask(photo(1), photo(2), photo(3))
            assert (await here.ask(photo(4)))[0].label in CLASSES
            assert len(here.log) == 1

    run(main)


def test_a_request_whose_deadline_has_passed_is_not_computed(folders: dict[str, Path]) -> None:
    async def main() -> None:
        async with stand(arm("champion", folders["one"])) as here:
            late = photo(1)
            await here.classifier.apply([late], Call(deadline=time.monotonic() - 1))
            assert late.problem is not None
            assert late.problem.reason == "too_late"
            assert late.probabilities is None
            assert here.log == []

    run(main)


# ----------------------------------------------------------------------------------------------------- log


def test_every_answer_is_a_whole_row_of_predictions(folders: dict[str, Path]) -> None:
    async def main() -> None:
        async with stand(arm("champion", folders["one"], "3")) as here:
            digest = hashlib.sha256(b"jpeg").hexdigest()
            taken = "2026-03-07T09:00:00+02:00"
            await here.ask(
                photo(1, image_id="shop/1", captured_at=taken, content_hash=digest), photo(2, sender=""), photo(3)
            )
            first, second, third = here.log
            assert all(set(row) == set(predictions.c.keys()) for row in here.log)
            assert (first["image_id"], first["source_id"], first["content_hash"]) == ("shop/1", "41", digest)
            assert first["captured_at"] == datetime(2026, 3, 7, 7, tzinfo=UTC)
            assert second["captured_at"] == second["predicted_at"] == AT
            assert (second["source_id"], second["defaulted"]) == ("unknown", True)
            assert second["content_hash"] is None
            assert len({second["image_id"], third["image_id"]}) == 2, "named by their pixels"
            assert (first["run_id"], first["model_version"], first["generation"]) == ("run-3", "3", 5)
            assert (first["channel"], first["request_id"], first["key_id"]) == ("online", "request-1", "k1")
            assert len(first["context"]) == len(NAMES)
            assert first["context"][-2:] == [3.0, 0.5]
            assert set(first["timings"]) >= {"features", "queue", "model"}
            assert sum(first["probabilities"]) == pytest.approx(1, abs=1e-5)
            engine = sa.create_engine("sqlite://")
            METADATA.create_all(engine, tables=[predictions])
            with engine.begin() as connection:
                connection.execute(predictions.insert(), here.log)
                found = connection.execute(sa.select(predictions)).mappings()
                assert {row["image_id"]: row["context"] for row in found} == {
                    row["image_id"]: row["context"] for row in here.log
                }

    run(main)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"captured_at": "yesterday"}, "captured_at 'yesterday': is no time"),
        ({"captured_at": (AT + timedelta(minutes=2)).isoformat()}, "is in the future"),
        ({"captured_at": "0001-01-01T00:00:00+23:00"}, "is no time"),
        ({"sender": "x" * 257}, "input sender: has 257 characters"),
        ({"image_id": "a\0b"}, "input image_id: has 3 characters; at most 256, none of them NUL"),
        ({"content_hash": "f" * 65}, "input content_hash"),
    ],
)
def test_what_a_caller_says_of_a_photo_is_checked(
    folders: dict[str, Path], fields: dict[str, str], message: str
) -> None:
    async def main() -> None:
        async with stand(arm("champion", folders["one"])) as here:
            bad, good = await here.ask(photo(1, **fields), photo(2))
            assert bad.problem is not None
            assert bad.problem.kind.status == 422
            assert message in str(bad.problem)
            assert good.problem is None
            assert len(here.log) == 1

    run(main)


def test_a_clock_that_is_a_little_ahead_is_forgiven(folders: dict[str, Path]) -> None:
    async def main() -> None:
        async with stand(arm("champion", folders["one"])) as here:
            (found,) = await here.ask(photo(1, captured_at="2026-03-07T12:00:50Z"))
            assert found.problem is None
            assert here.log[0]["captured_at"] == datetime(2026, 3, 7, 12, 0, 50, tzinfo=UTC)

    run(main)


def test_answers_from_memory_are_logged_under_an_id_of_their_own(folders: dict[str, Path]) -> None:
    async def main() -> None:
        async with stand(arm("champion", folders["one"], "3")) as here:
            data = b"the file's bytes"
            (first,) = await here.ask(photo(1, photo=data, content_hash=hashlib.sha256(data).hexdigest()))
            again = Photo(photo=data, sender="41")
            champion = here.arms.all()[0]
            assert here.recall.get(again, champion, here.features.fingerprint("41", AT))
            await here.ask(again)
            assert again.cached
            assert again.label == first.label
            one, two = here.log
            assert (one["cached"], two["cached"]) == (False, True)
            assert one["prediction_id"] != two["prediction_id"] == again.prediction_id
            assert two["run_id"] == "run-3"
            assert one["probabilities"] == two["probabilities"]
            other = Photo(photo=data, sender="99")
            assert not here.recall.get(other, champion, here.features.fingerprint("99", AT)), "another sender"

    run(main)


def test_prediction_ids_are_version_7_uuids_in_order() -> None:
    import uuid

    ids = [prediction_id() for _ in range(200)]
    assert len(set(ids)) == 200
    assert all(uuid.UUID(found).version == 7 and uuid.UUID(found).variant == uuid.RFC_4122 for found in ids)
    time.sleep(0.002)
    assert prediction_id() > max(ids)


# -------------------------------------------------------------------------------------------------- shadow


def test_the_shadow_answers_the_same_photos_and_only_the_log_hears_of_it(folders: dict[str, Path]) -> None:
    async def main() -> None:
        shadow = arm("shadow", folders["two"], "2")
        async with stand(arm("champion", folders["one"]), shadow=shadow) as here:
            found = await here.ask(photo(1), photo(2))
            assert {one.arm for one in found} == {"champion"}
            await here.classifier.stop()
            mine, behind = here.log[:2], here.log[2:]
            assert [row["arm"] for row in here.log] == ["champion"] * 2 + ["shadow"] * 2
            assert [row["image_id"] for row in mine] == [row["image_id"] for row in behind]
            assert [row["context"] for row in mine] == [row["context"] for row in behind]
            images = np.stack([one.image for one in found])  # type: ignore[misc]
            context = np.array([one.context for one in found], np.float32)
            wanted = load_model(folders["two"], threads=1).predict(images, context).probabilities
            np.testing.assert_allclose([row["probabilities"] for row in behind], wanted, atol=1e-5)
            assert len({row["prediction_id"] for row in here.log}) == 4
            assert here.counts == [("champion", True)] * 2 + [("shadow", True)] * 2
            assert (here.classifier.shadowed, here.classifier.shadow_shed) == (2, 0)

    run(main)


def test_a_shadow_that_is_slow_full_or_broken_costs_callers_nothing(folders: dict[str, Path]) -> None:
    async def main() -> None:
        shadow = arm("shadow", folders["two"], "2", queue=3, batch=1)
        async with stand(arm("champion", folders["one"]), shadow=shadow) as here:
            go = threading.Event()
            engine = shadow.loaded._engine

            class Slow:
                name, precision, on_cores = engine.name, engine.precision, engine.on_cores

                def predict(self, images: np.ndarray, context: np.ndarray) -> Any:
                    assert go.wait(10)
                    return engine.predict(images, context)

            shadow.loaded._engine = Slow()
            found = [(await here.ask(photo(row)))[0] for row in range(8)]
            assert all(one.problem is None for one in found), "each was answered while the shadow stood still"
            assert here.classifier.shadow_shed >= 3
            go.set()
            await here.classifier.stop()
            assert here.classifier.shadowed + here.classifier.shadow_shed == 8
            assert sum(row["arm"] == "shadow" for row in here.log) == here.classifier.shadowed
            await shadow.loaded.stop()
            assert (await here.ask(photo(9)))[0].problem is None
            await here.classifier.stop()
            assert here.classifier.shadowed + here.classifier.shadow_shed == 9

    run(main)


@pytest.mark.parametrize("other", ["padded", "other_service"])
def test_a_shadow_of_other_images_or_features_is_not_asked(folders: dict[str, Path], other: str) -> None:
    async def main() -> None:
        champion = arm("champion", folders["one"])
        async with stand(champion, shadow=arm("shadow", folders[other], "2")) as here:
            (found,) = await here.ask(photo(1, image_spec=champion.loaded.image_digest))
            assert found.problem is None
            await here.classifier.stop()
            assert (here.classifier.shadowed, here.classifier.shadow_shed) == (0, 1)
            assert len(here.log) == 1

    run(main)


# ------------------------------------------------------------------------------------------- exchanges, etc.


def test_models_are_exchanged_under_load_without_a_failed_photo(folders: dict[str, Path]) -> None:
    async def main() -> None:
        async with stand(arm("champion", folders["one"])) as here:
            done = asyncio.Event()
            found: list[Photo] = []

            async def client(number: int) -> None:
                while not done.is_set():
                    found.extend(await here.ask(photo(number), photo(number + 1)))

            clients = [asyncio.create_task(client(number)) for number in range(4)]
            for version in range(2, 8):
                seen = len(found)
                while len(found) < seen + 10:
                    await asyncio.sleep(0)
                old = here.arms.all()[0]
                here.arms.swap(
                    Lineup(champion=arm("champion", folders["two" if version % 2 == 0 else "one"], str(version)))
                )
                await here.arms.drained(old.loaded)
                await old.loaded.stop()
            while here.log[-1]["model_version"] != "7":
                await asyncio.sleep(0)
            done.set()
            await asyncio.gather(*clients)
            assert [one.problem for one in found if one.problem] == []
            assert {one.model_version for one in found} >= {"1", "2", "3", "4", "5", "6", "7"}
            assert len(here.log) == len(found)

    run(main)


def test_metadata_tells_what_runs(folders: dict[str, Path]) -> None:
    async def main() -> None:
        async with stand(arm("champion", folders["one"], "3")) as here:
            told = here.classifier.metadata()
            assert told.versions == ("3",)
            shapes = {spec.name: spec.shape for spec in (*told.inputs, *told.outputs)}
            assert shapes["image"] == (-1, SIZE, SIZE, 3)
            assert shapes["context"] == (-1, len(NAMES))
            assert shapes["probabilities"] == (-1, len(CLASSES))
            assert told.properties["classes"] == list(CLASSES)
            assert told.properties["stats"] == list(STATS)
            assert told.properties["runtimes"]["3"]["runtime"] == "onnxruntime"
            assert told.properties["runtimes"]["3"]["agreement"] < 1e-3
            assert here.classifier.ready() is None

    run(main)


def test_nothing_is_answered_before_a_model_is_loaded() -> None:
    async def main() -> None:
        classifier = Classifier(Arms(), Senders(), Kept(), clock=lambda: AT)
        assert classifier.ready() == "no model is loaded yet"
        assert classifier.metadata().versions == ()
        with pytest.raises(Problem, match="no model is loaded") as problem:
            await classifier.apply([photo(1)], Call())
        assert problem.value.kind.status == 503

    run(main)
