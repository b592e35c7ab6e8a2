"""How each slice stands, in the one word that pictures, pages and reports share."""

from collections.abc import Sequence
from typing import Literal

from monitoring.slices import ROWS, SliceRow

Standing = Literal["won", "lost", "even", "unjudged", "other"]


def standings(table: Sequence[SliceRow], confidence: float) -> list[Standing]:
    """The word for each row.

    - lost: the test over senders shows it with `confidence`, adjusted for the number of judged slices (Holm);
    - won: the test over photos shows it so, and the interval, which knows the senders, is above 0 as well;
    - even: judged, and neither is shown;
    - unjudged: it has too few photos, or the same ones as another slice, or all;
    - other: all golden, or all fresh rows, which have gates of their own.
    """
    judged = [row for row in table if row.judged]
    adjusted = dict(zip(map(id, judged), _holm([row.p_value for row in judged]), strict=True))
    return [_standing(row, adjusted.get(id(row)), 1 - confidence) for row in table]


def _standing(row: SliceRow, p_win: float | None, alpha: float) -> Standing:
    if row.column == ROWS:
        return "other"
    if p_win is None:
        return "unjudged"
    if p_win <= alpha and row.low > 0:
        return "won"
    if row.p_harm_holm is not None and row.p_harm_holm <= alpha and row.difference < 0:
        return "lost"
    return "even"


def _holm(p_values: Sequence[float]) -> list[float]:
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests  # slow to import, and only a judge needs it

    return [float(p) for p in multipletests(p_values, method="holm")[1]]
