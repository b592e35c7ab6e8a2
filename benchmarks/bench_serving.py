"""JPEG in, class out: our server beside its peers and beside what the machine can do; and what each part of it costs.

    classy bench serving [--quick] [--only fastapi,mlserver] [--network resnet18]

`python -m benchmarks.peers.setup` makes the peers' environments first; a peer without one is reported as missing.
"""

import argparse
import importlib
import json
import os
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import limit, ours, tensors, world
from benchmarks.load import Target, ask, fire, highest_rate, saturate
from benchmarks.peers import launch
from benchmarks.peers.launch import PEERS, Flavour, Missing, Peer
from benchmarks.record import Row, record

BOUND = 0.1
"""Seconds within which 99% of the requests must be answered, none with an error."""
TRIES = 2
"""Runs in a row that must fail before a rate counts as too high, for everybody alike."""
GOALS: dict[Flavour, float] = {"own": 3.0, "same": 1.3}
NAMES: dict[Flavour, str] = {"own": "jpeg_rps_vs_best_peer", "same": "jpeg_rps_vs_best_peer_same_runtime"}
CLOSE = 0.75
"""Peers that come so near to the best at a first look are all measured in turns: a look is off by a fifth at times."""
CLEAR = 0.2
"""Photos are taken whose first class is so far ahead that other decoders and bfloat16 give the same."""
ELSEWHERE = ("sequencing", "guard_cost", "feature_lookup")
"""Other figures of serving, each by a module of its own with `rows()`."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long is measured."""

    seconds: float
    """Of one run at one rate."""
    runs: int
    """At most, of one search."""
    grain: float
    """The share of the rate to which a search is narrowed."""
    rounds: int
    """Turns of ours and the best peer."""


FULL = Pace(seconds=3.0, runs=9, grain=0.04, rounds=3)
LOOK = Pace(seconds=2.0, runs=7, grain=0.08, rounds=1)
"""For finding the best peers."""
QUICK = Pace(seconds=0.5, runs=2, grain=0.5, rounds=1)


@dataclass(slots=True)
class Found:
    """Highest rates of a server, in the order in which they were measured."""

    rates: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    """Ours, measured next to each."""

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def measure(
    *,
    quick: bool = False,
    only: tuple[str, ...] = (),
    network: world.Network = "compact",
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """All figures of serving, recorded as `serving`; some twenty minutes.

    Args:
        quick: tries everything for a moment; its figures mean nothing and are recorded as `serving-quick`.
        only: peers by name; default: all. What was measured before of others stays.
        network: another one than the recipe's; then the photos' figures alone, recorded as `serving-NETWORK`.
    """
    made = world.settle(network)
    names = only or tuple(PEERS)
    missing: dict[str, str] = {}
    bench = _Bench(made, QUICK if quick else FULL, QUICK if quick else LOOK, say)
    with ours.running(made, workers=launch.workers()) as server:
        bench.ours = ours.target(server, bench.made)
        say(f"{len(bench.photos)} photos of {len(made.sent)} whose class is clear")
        bench.check_ours()
        found = bench.look(names, missing)
        rows = bench.finals(found)
    if network == "compact":
        rows += tensors.rows()
    for module in ELSEWHERE if network == "compact" else ():
        try:
            rows += importlib.import_module(f"benchmarks.{module}").rows()
        except ModuleNotFoundError as error:
            missing[module] = str(error)
    for name, why in missing.items():
        say(f"missing: {name}: {why}")
    name = "serving" if network == "compact" else f"serving-{network}"
    name = f"{name}-quick" if quick else name
    record(name, rows, beside=bool(only), missing=missing, load=list(os.getloadavg()))
    return [row.as_json() for row in rows]


class _Bench:
    def __init__(self, made: world.World, full: Pace, look: Pace, say: Callable[[str], None]) -> None:
        self.expected, clear = _expected(made)
        self.made = replace(made, sent=clear)
        self.full, self.quick_look, self.say = full, look, say
        self.photos = [photo.data for photo in clear]
        self.ours: Target = Target("", 0, ())
        self.rate_of: dict[str, float] = {}
        """The last rate found, where the next search begins."""

    # ---------------------------------------------------------------------------- the same answers

    def check_ours(self) -> None:
        self._check("classy", self.ours, ours.label)

    def _check(self, name: str, target: Target, label: Callable[[Any], str]) -> None:
        """Every photo's class, before anything is measured.

        Raises:
            Missing: an answer is an error, or another class.
        """
        for number, (status, body) in enumerate(ask(target, connections=2, timeout=60)):
            if status != 200:
                raise Missing(f"photo {number}: {status}: {body[:200].decode(errors='replace')}")
            said = label(json.loads(body))
            if said != self.expected[number]:
                raise Missing(f"photo {number} is {said}, must be {self.expected[number]}: not the same model")

    # ------------------------------------------------------------------------------- highest rates

    def search(self, name: str, target: Target, pace: Pace) -> float:
        start = self.rate_of.get(name)
        if start is None:
            start = 0.85 * saturate(target, seconds=pace.seconds, connections=32).achieved
        seeds = iter(range(1000))
        rate, runs = highest_rate(
            lambda rate: fire(target, rate=rate, seconds=pace.seconds, seed=next(seeds)),
            start=max(start, 1.0), bound=BOUND, grain=pace.grain, most=pace.runs, tries=TRIES,
        )  # fmt: skip
        if rate == 0.0:  # none of these held: what was answered in time is not known, but not more than this
            rate = min(run.offered for run in runs) / 1.25
        self.rate_of[name] = rate
        last = runs[-1]
        self.say(
            f"{name}: {rate:.0f}/s (p50 {1000 * last.p50:.0f}, p99 {1000 * last.p99:.0f} ms at {last.offered:.0f}/s)"
        )
        return rate

    def look(self, names: tuple[str, ...], missing: dict[str, str]) -> dict[tuple[str, Flavour], Found]:
        """Every peer once in each flavour, ours before each: who is best?"""
        found: dict[tuple[str, Flavour], Found] = {}
        for name in names:
            beside = self.search("classy", self.ours, self.quick_look)
            for flavour in GOALS:
                try:
                    with self._peer(name, flavour) as target:
                        rate = self.search(f"{name} {flavour}", target, self.quick_look)
                    found[name, flavour] = Found([rate], [beside])
                except Missing as why:
                    missing[f"{name} {flavour}"] = str(why)
                    self.say(f"{name} {flavour}: missing: {why}")
        return found

    def finals(self, found: dict[tuple[str, Flavour], Found]) -> list[Row]:
        """Ours and the best peers of each flavour in turns, with the machine's limit between. The best is compared."""
        rows: list[Row] = []
        limits: list[limit.Limit] = []
        mine: list[float] = []
        for flavour in GOALS:
            rivals = {name: one for (name, kind), one in found.items() if kind == flavour}
            if not rivals:
                continue
            near = CLOSE * max(rival.rate for rival in rivals.values())
            finals = {name: self._turns(name, flavour, limits) for name in rivals if rivals[name].rate >= near}
            mine += [rate for final in finals.values() for rate in final.beside]
            found |= {(name, flavour): final for name, final in finals.items()}
            best = max(finals, key=lambda name: finals[name].rate)
            rows.append(_against(NAMES[flavour], best, flavour, finals[best], GOALS[flavour]))
        rows.append(_against_limit(mine, limits))
        rows += [_against(f"peer_{name}_{kind}", name, kind, one, 1.0) for (name, kind), one in found.items()]
        return rows

    def _turns(self, name: str, flavour: Flavour, limits: list[limit.Limit]) -> Found:
        final = Found()
        with self._peer(name, flavour) as target:
            for _ in range(self.full.rounds):
                final.beside.append(self.search("classy", self.ours, self.full))
                final.rates.append(self.search(f"{name} {flavour}", target, self.full))
                limits.append(limit.measure(self.made.package, self._photo_folder(), seconds=self.full.seconds))
        return final

    def _photo_folder(self) -> Path:
        return self.made.settings.home / "photos" / "images"

    def _peer(self, name: str, flavour: Flavour) -> "_Running":
        return _Running(self, PEERS[name], flavour)


class _Running:
    """A peer that is up and gives the right answers, while the block lasts."""

    def __init__(self, bench: _Bench, peer: Peer, flavour: Flavour) -> None:
        self._bench, self._peer, self._flavour = bench, peer, flavour
        self._stack = ExitStack()

    def __enter__(self) -> Target:
        bench, peer = self._bench, self._peer
        folder = bench.made.settings.home / "peers" / f"{peer.name}-{self._flavour}"
        with ExitStack() as stack:
            port = stack.enter_context(launch.running(peer, self._flavour, bench.made.package, folder))
            target = launch.target(peer, port, bench.photos)
            bench._check(peer.name, target, peer.label)
            self._stack = stack.pop_all()
        return target

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _expected(made: world.World) -> tuple[list[str], list[world.Sent]]:
    """Photos of which our runtime is sure, and what it says of them."""
    from serving.canonical import ImageSpec, canonicalise
    from serving.engines.choose import choose_engine
    from serving.runtime import read_package

    card = json.loads((made.package / "card.json").read_text())
    spec = ImageSpec(**card["image"])
    images = np.stack([canonicalise(photo.data, spec) for photo in made.sent])
    context = np.repeat(np.asarray([card["context_default"]], np.float32), len(images), axis=0)
    found = choose_engine(made.package, read_package(made.package)).engine.predict(images, context).probabilities
    best = np.sort(found, axis=1)
    sure = np.flatnonzero(best[:, -1] - best[:, -2] >= CLEAR).tolist()
    return [card["classes"][found[row].argmax()] for row in sure], [made.sent[row] for row in sure]


def _against(name: str, peer: str, flavour: Flavour, found: Found, goal: float) -> Row:
    mine = statistics.median(found.beside)
    return Row(
        name=name,
        ours=round(mine, 1),
        other=round(found.rate, 1),
        other_name=f"{peer} ({'its own way' if flavour == 'own' else 'with our decoder and runtime'})",
        unit=f"JPEGs/s, 99% within {1000 * BOUND:.0f} ms",
        better="more",
        goal=goal,
        spread=f"ours {_span(found.beside)}, {peer} {_span(found.rates)}",
    )


def _against_limit(mine: list[float], limits: list[limit.Limit]) -> Row:
    middle = statistics.median(found.rps for found in limits)
    one = sorted(limits, key=lambda found: found.rps)[len(limits) // 2]
    return Row(
        name="jpeg_rps_vs_limit",
        ours=round(statistics.median(mine), 1),
        other=round(middle, 1),
        other_name=f"decoding ({1000 * one.decode:.2f} ms) and the model ({1000 * one.model:.2f} ms) alone",
        unit=f"JPEGs/s on {one.cores} cores",
        better="more",
        goal=0.8,
        spread=f"ours {_span(mine)}, limit {_span([found.rps for found in limits])}; the load generator takes its part",
    )


def _span(values: list[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}" if len(values) > 1 else f"{values[0]:.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Serving, beside peers and limits.")
    parser.add_argument("--quick", action="store_true", help="try everything for a moment; the figures mean nothing")
    parser.add_argument("--only", default="", help="peers, comma-separated")
    parser.add_argument("--network", choices=tuple(world.NETWORKS), default="compact")
    given = parser.parse_args()
    measure(quick=given.quick, only=tuple(filter(None, given.only.split(","))), network=given.network)
    return 0


if __name__ == "__main__":
    sys.exit(main())
