"""What the server counts, for Prometheus. `docs/metrics.md` lists every name; a test holds the two together.

Requests add to counters that were looked up before; what others count anyway (lanes, arms, the log) is asked when
somebody scrapes. No label has a value that a client chose, and each has a bounded number of them.
"""

from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector

from serving.components.base import Call
from serving.loop_metrics import Figures, families
from serving.metrics_files import Files, plain
from serving.photos import Photo
from serving.problems import Problem

if TYPE_CHECKING:
    from serving.versions.arms import Arms

BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: a stage takes half a millisecond on a good day, a slow origin ten seconds."""
BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Photos."""
MOST = 200
"""Values of one label set that are learned while serving; what comes after is counted as `other`."""
OTHER = "other"


class LaneLike(Protocol):
    """See `serving.lanes.Lane`."""

    name: str
    refused: int

    @property
    def sizes(self) -> Mapping[int, int]: ...

    @property
    def waiting(self) -> int: ...

    @property
    def capacity(self) -> int: ...


class RingLike(Protocol):
    """See `serving.access.ring.KeyRing`."""

    @property
    def count(self) -> int: ...

    @property
    def age_s(self) -> float: ...


class Metrics:
    """Everything that /metrics shows of one process, or of all workers.

    Args:
        version: of Classy.
        folder: where workers put what they counted, so that whoever is scraped can tell of all; None: one worker.
        worker: this one's name among them.
    """

    def __init__(self, *, version: str = "", folder: Path | None = None, worker: str = "0") -> None:
        # Feast, once imported, has the library count in files that all processes share: each of ours would be twice.
        values.ValueClass = values.MutexValue
        self.registry = registry = CollectorRegistry()
        self.models: Collection[str] = ()
        """Names of the served models: a request for another one is counted under `other`."""
        self.ready: Callable[[], str | None] | None = None
        self._requests = Counter(
            "classy_requests", "Requests answered, by HTTP status (gRPC's codes as their HTTP twins).",
            ["door", "model", "status"], registry=registry,
        )  # fmt: skip
        self._duration = Histogram(
            "classy_request_duration_seconds", "From the request's last byte to the answer's first.",
            ["door", "model"], registry=registry, buckets=BUCKETS,
        )  # fmt: skip
        self._stages = Histogram(
            "classy_stage_duration_seconds", "Time in one stage, of a photo or of a request.",
            ["stage", "arm"], registry=registry, buckets=BUCKETS,
        )  # fmt: skip
        self._photos = Counter(
            "classy_photos", "Photos by what became of them: answered, cached, refused or failed.",
            ["model", "arm", "version", "outcome"], registry=registry,
        )  # fmt: skip
        self._defaulted = Counter(
            "classy_photos_defaulted", "Photos answered with default features: sender unknown, or too old.",
            ["arm"], registry=registry,
        )  # fmt: skip
        self._problems = Counter(
            "classy_problems", "Problems of photos and of requests, by their detail.", ["detail"], registry=registry
        )
        Gauge("classy_build_info", "The version of Classy.", ["version"], registry=registry).labels(version).set(1)
        ProcessCollector(registry=registry)
        self._watched = Watched(self)
        registry.register(self._watched)
        self._children: dict[tuple[str, ...], Any] = {}
        self._learned: dict[Any, int] = {}
        collect = lambda: plain(registry.collect())  # noqa: E731
        self._files = Files(folder, worker, collect) if folder is not None else None

    def watch(
        self,
        *,
        models: Collection[str] | None = None,
        ready: Callable[[], str | None] | None = None,
        lanes: Callable[[], Iterable[LaneLike]] | None = None,
        arms: "Arms | None" = None,
        log: Callable[[], Mapping[str, float]] | None = None,
        recall: Callable[[], Mapping[str, float]] | None = None,
        keys: RingLike | None = None,
        loop: Callable[[], Figures] | None = None,
    ) -> None:
        """Say who is asked when somebody scrapes. `log` gives rows by fate (written, shed, …) and in its `queue`;
        `recall` gives hits and misses, `loop` what the loop last found; lanes of arms are found by themselves."""
        if models is not None:
            self.models = models
        self.ready = ready or self.ready
        given = {"lanes": lanes, "arms": arms, "log": log, "recall": recall, "keys": keys, "loop": loop}
        for name, source in given.items():
            if source is not None:
                setattr(self._watched, name, source)

    # -------------------------------------------------------------------------------------------- hot path

    def observe(
        self,
        model: str,
        call: Call,
        photos: Sequence[Photo],
        status: int,
        *,
        door: str = "rest",
        seconds: float | None = None,
        problem: Problem | None = None,
    ) -> None:
        """Count a request that was answered.

        Args:
            model: as the request named it.
            photos: of the request (`call.photos`); empty where it was refused before they were read.
            status: of HTTP; for gRPC the twin (`problem.kind.status`, 200).
            door: rest or grpc.
            seconds: the whole of it.
            problem: why the request as a whole failed.
        """
        if model not in self.models:
            model = OTHER
        self._child(self._requests, door, model, str(status)).inc()
        if seconds is not None:
            self._child(self._duration, door, model).observe(seconds)
        if problem is not None and (len(photos) != 1 or photos[0].problem is not problem):
            self._child(self._problems, problem.detail[:40]).inc()
        arm = ""
        told: set[str] = set()
        for photo in photos:
            arm = photo.arm or arm
            self._photo(model, photo)
            told.update(photo.seconds)
            for stage, spent in photo.seconds.items():
                self._child(self._stages, stage, photo.arm).observe(spent)
        for stage, spent in call.seconds.items():
            if photos and stage not in told:  # what a photo tells is in the request's times as well
                self._child(self._stages, stage, arm).observe(spent)

    def _photo(self, model: str, photo: Photo) -> None:
        problem = photo.problem
        if problem is None:
            outcome = "cached" if photo.cached else "answered"
        else:
            outcome = "failed" if problem.kind.status >= 500 else "refused"
            self._child(self._problems, problem.detail[:40]).inc()
        self._child(self._photos, model, photo.arm, photo.model_version, outcome).inc()
        if photo.defaulted:
            self._child(self._defaulted, photo.arm).inc()

    def _child(self, metric: Any, *labels: str) -> Any:
        key = (metric._name, *labels)
        found = self._children.get(key)
        if found is None:
            learned = self._learned.get(metric, 0)
            if learned >= MOST:
                labels = tuple(OTHER for _ in labels)
            self._learned[metric] = learned + 1
            found = metric.labels(*labels)
            if learned < MOST:
                self._children[key] = found
        return found

    # --------------------------------------------------------------------------------------------- scrapes

    def start(self) -> None:
        """Begin to tell the other workers what this one counts. Nothing to do for one alone."""
        if self._files is not None:
            self._files.start()

    def stop(self) -> None:
        if self._files is not None:
            self._files.stop()

    def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """All of it as text, and its content type: OpenMetrics where `Accept` asks for it."""
        encoder, content_type = choose_encoder(accept)
        return encoder(_Families(self.families())), content_type

    def families(self) -> list[Metric]:
        """Metrics of this process, or of all workers together."""
        if self._files is None:
            return plain(self.registry.collect())
        return self._files.merged()


class _Families(CollectorRegistry):
    """What an encoder takes for a registry."""

    def __init__(self, families: list[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


class Watched:
    """What others count, asked at each scrape."""

    lanes: Callable[[], Iterable[LaneLike]] = staticmethod(lambda: ())
    arms: "Arms | None" = None
    log: Callable[[], Mapping[str, float]] = staticmethod(dict)
    recall: Callable[[], Mapping[str, float]] = staticmethod(dict)
    keys: RingLike | None = None
    loop: Callable[[], Figures] = staticmethod(dict)

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        ready = self._metrics.ready
        yield GaugeMetricFamily(
            "classy_ready", "1 while this process can answer.", value=float(ready is None or ready() is None)
        )
        yield from self._of_lanes()
        yield from self._of_arms()
        yield from self._of_log()
        yield from self._of_keys()
        yield from families(self.loop())

    def _of_lanes(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("classy_lane_waiting_photos", "Photos that wait in a lane.", labels=["lane"])
        room = GaugeMetricFamily("classy_lane_capacity_photos", "Photos that may wait in a lane.", labels=["lane"])
        refused = CounterMetricFamily("classy_lane_refused_photos", "Photos that found a lane full.", labels=["lane"])
        batches = HistogramMetricFamily(
            "classy_lane_batch_photos", "Photos of one batch that a lane worked on.", labels=["lane"]
        )
        sums: dict[str, list[float]] = {}
        sizes: dict[str, Tally[int]] = {}
        for lane in self._all_lanes():
            sofar = sums.setdefault(lane.name, [0.0] * 3)
            numbers = (lane.waiting, lane.capacity, lane.refused)
            sums[lane.name] = [before + now for before, now in zip(sofar, numbers, strict=True)]
            sizes.setdefault(lane.name, Tally()).update(dict(lane.sizes))
        families: tuple[Any, ...] = (waiting, room, refused)
        for name, row in sums.items():
            for family, number in zip(families, row, strict=True):
                family.add_metric([name], number)
            batches.add_metric([name], *_histogram(sizes[name]))
        yield from (*families, batches)

    def _all_lanes(self) -> Iterable[LaneLike]:
        """Each lane once, those of loaded models too."""
        found = {id(lane): lane for lane in self.lanes()}
        for arm in self.arms.all() if self.arms is not None else ():
            found.setdefault(id(arm.loaded.lane), arm.loaded.lane)
        return found.values()

    def _of_arms(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "classy_arm_info", "1 for each model that answers.", labels=["arm", "version", "generation"]
        )
        weight = GaugeMetricFamily("classy_arm_weight_ratio", "Share of senders that an arm answers.", labels=["arm"])
        generation = GaugeMetricFamily("classy_generation_number", "The generation that serves.")
        behind = GaugeMetricFamily("classy_deployment_refused", "1 while the newest deployment could not be loaded.")
        lineup = self.arms.lineup if self.arms is not None else None
        if self.arms is not None and lineup is not None:
            for arm in lineup.arms():
                info.add_metric([arm.name, arm.version, str(arm.generation)], 1)
            shares = {arm.name: 0.0 for arm in lineup.arms()}
            shares[lineup.champion.name] = 1 - (lineup.weight if lineup.canary else 0)
            if lineup.canary:
                shares[lineup.canary.name] = lineup.weight
            for name, share in shares.items():
                weight.add_metric([name], share)
            generation.add_metric([], lineup.champion.generation)
            behind.add_metric([], float(bool(self.arms.refused)))
        yield from (info, weight, generation, behind)

    def _of_log(self) -> Iterator[Metric]:
        rows = CounterMetricFamily("classy_log_rows", "Rows of the prediction log, by fate.", labels=["fate"])
        waiting = GaugeMetricFamily("classy_log_waiting_rows", "Rows of the prediction log that are not written yet.")
        found = self.log()
        for fate, count in found.items():
            if fate == "queue":
                waiting.add_metric([], count)
            else:
                rows.add_metric([fate], count)
        yield from (rows, waiting)
        lookups = CounterMetricFamily("classy_recall_lookups", "Photos looked up in memory.", labels=["found"])
        recalled = self.recall()
        for name, label in (("hits", "yes"), ("misses", "no")):
            if name in recalled:
                lookups.add_metric([label], recalled[name])
        yield lookups

    def _of_keys(self) -> Iterator[Metric]:
        count = GaugeMetricFamily("classy_api_keys", "API keys that this process knows, revoked ones too.")
        age = GaugeMetricFamily("classy_api_keys_age_seconds", "Since the API keys were last read.")
        if self.keys is not None:
            count.add_metric([], self.keys.count)
            age.add_metric([], self.keys.age_s)
        yield from (count, age)


def _histogram(sizes: Mapping[int, int]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative counts by bound, and the sum, as `HistogramMetricFamily.add_metric` takes them."""
    rows = [(str(float(most)), float(sum(n for size, n in sizes.items() if size <= most))) for most in BATCHES]
    return [*rows, ("+Inf", float(sum(sizes.values())))], float(sum(size * n for size, n in sizes.items()))
