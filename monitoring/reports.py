"""One page a window: our verdict first, then Evidently's drawings of the very rows it was reached on.

Evidently draws and does not decide. It is given our distance and our limit for each column, so the marks on
its charts are the verdict's own; its default tests raise false alarms on small windows. It embeds its own
JavaScript, which makes a page of about 4.4 MB that opens anywhere, with no network.
"""

import warnings
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

with warnings.catch_warnings():
    # What Evidently imports warns of its own ageing, at length; nobody who runs a step can mend that.
    warnings.simplefilter("ignore")
    from evidently import DataDefinition, Dataset, Report
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType
    from evidently.metrics import ValueDrift

from monitoring.drift import CLASS_MIX, Column, Drift

DISTANCE = "classy_distance"
COLOURS = {"DRIFT": "#b3261e", "NO DRIFT": "#1b7a3d", "UNKNOWN": "#7a5c00"}
STYLE = """
#classy{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:24px auto;padding:0 24px;color:#1c1b1f}
#classy h1{font-size:26px;margin:0 0 8px}#classy h2{font-size:18px;margin:28px 0 8px}
#classy .mark{color:#fff;border-radius:6px;padding:2px 12px;white-space:nowrap}
#classy table{border-collapse:collapse;width:100%}
#classy td,#classy th{text-align:left;padding:5px 10px;border-bottom:1px solid #ddd;vertical-align:top}
#classy td.n,#classy th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
#classy .bar{position:relative;background:#eee;height:12px;width:140px;margin-top:5px}
#classy .bar i{position:absolute;left:0;top:0;height:12px}
#classy .bar b{position:absolute;top:-3px;height:18px;width:2px;background:#1c1b1f}
#classy p.small{color:#555;font-size:13px}
"""


def render(
    drift: Drift,
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    reference: pd.DataFrame | None,
    window: pd.DataFrame | None,
) -> str:
    """The page as HTML.

    Args:
        drift: what was decided.
        title: such as the day.
        facts: name and value lines of the first table (champion, accuracy, rows).
        reference: the compared columns, from `drift.compared`; None where there is nothing to draw.
        window: the same of the window.
    """
    head = header(drift, title=title, facts=facts)
    name = f"<title>{escape(title)}: {drift.verdict}</title>"
    told = [column for column in drift.columns if column.verdict != "UNKNOWN"]
    if reference is None or window is None or not told:
        return f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="UTF-8">{name}</head><body>{head}</body></html>'
    page = drawn(told, reference, window)
    return page.replace("<head>", f"<head>{name}", 1).replace("<body>", f"<body>{head}", 1)


def header(drift: Drift, *, title: str, facts: Sequence[tuple[str, str]]) -> str:
    """Verdict, facts and column table as an HTML block of its own."""
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in drift.reasons)
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    columns = "".join(_row(column) for column in _sorted(drift.columns))
    return (
        f'<style>{STYLE}</style><div id="classy">'
        f"<h1>{escape(title)} {_mark(drift.verdict)}</h1><ul>{reasons}</ul><table>{rows}</table>"
        "<h2>Columns</h2><table><tr><th>column</th><th>verdict</th><th class='n'>distance</th><th class='n'>limit</th>"
        "<th></th><th class='n'>adjusted p</th><th class='n'>median</th><th class='n'>reference</th></tr>"
        f"{columns}</table>"
        f"<p class='small'>Distance: Kolmogorov-Smirnov, for {CLASS_MIX} total variation, 0 to 1. The limit is what "
        f"chance reaches in a share {drift.alpha:g} of unchanged windows, over all columns together, and at least "
        f"{drift.min_effect:g}; found by {drift.permutations} shuffles of {escape(drift.shuffled)} between "
        f"{drift.window_rows} window and {drift.reference_rows} reference rows. Below, Evidently draws the same rows "
        "with the same distances and limits.</p></div>"
    )


def _sorted(columns: Sequence[Column]) -> list[Column]:
    rank = {"DRIFT": 0, "UNKNOWN": 1, "NO DRIFT": 2}
    return sorted(columns, key=lambda column: (rank[column.verdict], -(column.effect or 0), column.name))


def _mark(verdict: str) -> str:
    return f'<span class="mark" style="background:{COLOURS[verdict]}">{verdict}</span>'


def _row(column: Column) -> str:
    start = f"<tr><td>{escape(column.name)}</td><td>{_mark(column.verdict)}</td>"
    if column.effect is None or column.limit is None:
        return f"{start}<td colspan='6'>{escape(column.reason)}</td></tr>"
    bar = (
        f"<div class='bar'><i style='width:{min(column.effect, 1):.1%};background:{COLOURS[column.verdict]}'></i>"
        f"<b style='left:{min(column.limit, 1):.1%}'></b></div>"
    )
    numbers = [f"{column.effect:.3f}", f"{column.limit:.3f}"]
    rest = [f"{column.p:.2g}", _number(column.window_median), _number(column.reference_median)]
    cells = [f"<td class='n'>{text}</td>" for text in numbers] + [f"<td>{bar}</td>"]
    return start + "".join(cells + [f"<td class='n'>{text}</td>" for text in rest]) + "</tr>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def drawn(columns: Sequence[Column], reference: pd.DataFrame, window: pd.DataFrame) -> str:
    """Evidently's page of these columns, with our distances and limits."""
    _register()
    names = [column.name for column in columns]
    definition = DataDefinition(
        numerical_columns=[name for name in names if name != CLASS_MIX],
        categorical_columns=[name for name in names if name == CLASS_MIX],
    )
    report = Report(
        [ValueDrift(column=column.name, method=DISTANCE, threshold=column.limit) for column in _sorted(columns)]
    )
    snapshot = report.run(
        Dataset.from_pandas(window[names], data_definition=definition),
        Dataset.from_pandas(reference[names], data_definition=definition),
    )
    return snapshot.get_html_str(as_iframe=False)


def _register() -> None:
    test = StatTest(
        name=DISTANCE,
        display_name="Classy's distance",
        allowed_feature_types=[ColumnType.Numerical, ColumnType.Categorical],
    )
    register_stattest(test, default_impl=_distance)


def _distance(reference: Any, window: Any, kind: ColumnType, limit: float) -> tuple[float, bool]:
    if kind == ColumnType.Categorical:
        shares = [side.value_counts(normalize=True) for side in (reference, window)]
        score = float(shares[0].sub(shares[1], fill_value=0).abs().sum() / 2)
    else:
        values = np.sort(np.concatenate([reference, window]))
        below = [np.searchsorted(np.sort(side), values, side="right") / len(side) for side in (reference, window)]
        score = float(np.abs(below[0] - below[1]).max())
    return round(score, 6), round(score, 6) > limit
