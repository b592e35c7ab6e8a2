"""When did it begin? The first day of a drift, and whether a second change came while the first went on.

Pictures may take another shape one week and get darker the next. Both are one unbroken run of DRIFT, but what the
second costs is not told by the days of the first: they would water its loss down, and a model trained on them as days
of the new world would learn the old one.

Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import pandas as pd

from monitoring import performance


def drifted(columns: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Names of the columns that drift."""
    return frozenset(column["name"] for column in columns if column["verdict"] == "DRIFT")


def starts(
    version: str | None, day: date, today: frozenset[str], earlier: Iterable[Mapping[str, Any]]
) -> tuple[date, ...]:
    """Where the run of DRIFT under this champion that ends with `day` may have begun, oldest first.

    The first is the run's first day; the others are those from which on a column drifted that drifts today. An UNKNOWN
    day ends neither.

    Args:
        today: columns that drift on `day`.
        earlier: evidence of the days before, newest first.
    """
    first, since, going = day, dict.fromkeys(today, day), set(today)
    for evidence in earlier:
        watched = evidence["champion"]
        if not watched or version is None or watched["version"] != version or evidence["verdict"] == "NO DRIFT":
            break
        if evidence["verdict"] == "DRIFT":
            first = date.fromisoformat(evidence["day"])
            going &= drifted(evidence["drift"]["columns"])
            since |= dict.fromkeys(going, first)
    return tuple(sorted({first, *since.values()}))


def began(own: pd.DataFrame, classes: Sequence[str], since: Sequence[date]) -> date:
    """Which of the `starts` it is: a later one where accuracy fell with it, significantly, below that of the drift
    before; labels of equal age are compared.

    Args:
        own: rows of a tally, by the champion, on senders that it was not trained on.
    """
    known = performance.judged(own, classes)
    found = since[0]
    for later in since[1:]:
        days = known["captured_on"]
        sides = known[(days >= found) & (days < later)], known[days >= later]
        if performance.compare_alike(*map(performance.by_age, sides)).significant:
            found = later
    return found
