"""Photos that two models answer differently: a few of them, picked so that neither model is flattered."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from monitoring.comparison import Paired

MOST = 20
Right = Literal["contender", "opponent", "neither"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """One photo and both answers; classes are positions."""

    position: int
    """Of the photo among the paired rows."""
    label: int
    contender: int
    contender_confidence: float
    opponent: int
    opponent_confidence: float
    right: Right


def pick(paired: Paired, *, most: int = MOST, seed: int = 7) -> list[Disagreement]:
    """At most `most` of the photos on which the answers differ, those where the contender is right first.

    The rule, the same for both models:

    1. The photos fall into three groups: only the contender is right, only the opponent is, neither is.
       Places are shared out in proportion to the groups; a group that is not empty has at least one.
    2. The first half of a group's places go to the mistakes that were made with most confidence. The other
       half are drawn from the rest of the group with `seed`, so that not only extremes are seen.
    3. Senders take turns: a second photo of a sender comes after the first of every other one.
    """
    ours, theirs = paired.contender.argmax(axis=1), paired.opponent.argmax(axis=1)
    differ = ours != theirs
    groups: dict[Right, NDArray[np.int64]] = {
        "contender": np.flatnonzero(differ & (ours == paired.labels)),
        "opponent": np.flatnonzero(differ & (theirs == paired.labels)),
        "neither": np.flatnonzero(differ & (ours != paired.labels) & (theirs != paired.labels)),
    }
    sure_ours, sure_theirs = paired.contender.max(axis=1), paired.opponent.max(axis=1)
    mistake = {"contender": sure_theirs, "opponent": sure_ours, "neither": np.maximum(sure_ours, sure_theirs)}
    rng = np.random.default_rng(seed)
    places = share([len(group) for group in groups.values()], most)
    return [
        Disagreement(
            position=int(row),
            label=int(paired.labels[row]),
            contender=int(ours[row]),
            contender_confidence=float(sure_ours[row]),
            opponent=int(theirs[row]),
            opponent_confidence=float(sure_theirs[row]),
            right=name,
        )
        for (name, group), room in zip(groups.items(), places, strict=True)
        for row in _of_group(group, mistake[name][group], paired.senders[group], room, rng)
    ]


def share(sizes: list[int], most: int) -> list[int]:
    """Places for groups of these sizes: in proportion, at least one for each that is not empty, none too many."""
    if sum(sizes) <= most:
        return list(sizes)
    places = [min(size, 1) for size in sizes]
    while sum(places) < most:
        # The group that is furthest below its due.
        due = [most * size / sum(sizes) - place for size, place in zip(sizes, places, strict=True)]
        places[int(np.argmax(due))] += 1
    return places


def _of_group(
    rows: NDArray[np.int64],
    confidence: NDArray[np.floating],
    senders: NDArray[np.str_],
    room: int,
    rng: np.random.Generator,
) -> list[int]:
    by_confidence = np.argsort(-confidence, kind="stable")
    order = by_confidence[_turns(senders[by_confidence])]
    surest = order[: (room + 1) // 2]
    others = rng.permutation(order[len(surest) :])
    drawn = others[_turns(senders[others])][: room - len(surest)]
    return rows[np.concatenate([surest, drawn])].tolist()


def _turns(senders: NDArray[np.str_]) -> NDArray[np.int64]:
    """An order in which every sender's first comes before any sender's second; otherwise as it is."""
    seen: dict[str, int] = {}
    turn = np.zeros(len(senders), dtype=np.int64)
    for place, sender in enumerate(senders.tolist()):
        turn[place] = seen.get(sender, 0)
        seen[sender] = turn[place] + 1
    return np.argsort(turn, kind="stable")
