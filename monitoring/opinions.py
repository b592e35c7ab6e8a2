"""What several people said of one photo: when it is the truth, and how far people agree.

Pure: opinions in, an outcome out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

THIRD = 3
"""People who are asked where the first ones differ."""
SKIPS = 2
"""People who cannot tell, after whom nobody else is asked."""

State = Literal["open", "disputed", "labelled", "undecided", "unclear"]
ASKED: tuple[State, ...] = ("open", "disputed")
"""States in which somebody is still wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """What a person said, and when; no label: they cannot tell."""

    author: str
    label: str | None
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """open: more people are wanted; disputed: one more, because they differ; labelled: the label, who said it, and when
    it was settled; undecided: three people, no majority; unclear: people cannot tell."""

    state: State
    label: str | None = None
    said_by: str = ""
    at: datetime | None = None


def settle(opinions: Sequence[Opinion], wanted: int) -> Outcome:
    """What a photo's opinions come to.

    Args:
        opinions: one a person.
        wanted: how many people must say the same before it is the truth.
    """
    said = [opinion for opinion in opinions if opinion.label is not None]
    votes = Counter(opinion.label for opinion in said)
    if len(said) >= wanted and len(votes) == 1:
        return _labelled(said, said[0].label)
    if len(said) >= THIRD:
        label, most = votes.most_common(1)[0]
        return _labelled(said, label) if 2 * most > len(said) else Outcome(state="undecided")
    if len(opinions) - len(said) >= SKIPS:
        return Outcome(state="unclear")
    return Outcome(state="disputed" if len(votes) > 1 else "open")


def _labelled(said: Sequence[Opinion], label: str | None) -> Outcome:
    agreed = [opinion for opinion in said if opinion.label == label]
    authors = ", ".join(sorted(opinion.author for opinion in agreed))
    return Outcome(state="labelled", label=label, said_by=authors, at=max(opinion.at for opinion in agreed))


Verdict = Literal["new", "changed", "unchanged"]


def verdict(known: Mapping[str, Any] | None, row: Mapping[str, Any]) -> Verdict:
    """What becomes of a label when `known` is what `ground_truth` has: the last word stays.

    Args:
        known: label, labelled_at, rejected; None: nobody has said anything.
        row: label, labelled_at.
    """
    if known is None:
        return "new"
    same = known["label"] == row["label"] and known["rejected"] is None
    return "unchanged" if same or row["labelled_at"] < known["labelled_at"] else "changed"


# --------------------------------------------------------------------------------------------- agreement


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """How far two people agree on the `photos` that both labelled. `kappa` (Cohen 1960) is None where chance alone
    would have them agree, because both said one class only."""

    one: str
    other: str
    photos: int
    same: int
    share: float
    kappa: float | None


def agreement(counts: Iterable[tuple[str, str, str, str, int]]) -> list[Pair]:
    """Agreement of each two people, those with most photos in common first.

    Args:
        counts: one person, another, what each said, and of how many photos they said so.
    """
    tables: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
    for one, other, ours, theirs, count in counts:
        tables.setdefault((one, other), Counter())[ours, theirs] += count
    found = [_pair(one, other, table) for (one, other), table in tables.items()]
    return sorted(found, key=lambda pair: (-pair.photos, pair.one, pair.other))


def _pair(one: str, other: str, table: Counter[tuple[str, str]]) -> Pair:
    photos = table.total()
    same = sum(count for (ours, theirs), count in table.items() if ours == theirs)
    ours, theirs = Counter[str](), Counter[str]()
    for (first, second), count in table.items():
        ours[first] += count
        theirs[second] += count
    chance = sum(ours[label] * theirs[label] for label in ours) / photos**2
    share = same / photos
    kappa = None if chance == 1 else (share - chance) / (1 - chance)
    return Pair(one=one, other=other, photos=photos, same=same, share=share, kappa=kappa)
