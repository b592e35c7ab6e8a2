"""The page of a model version in MLflow: its description, in Markdown.

What MLflow 3 makes of it, found by trying: Showdown with GitHub's flavour turns it into HTML, sanitize-html
keeps headings, lists, tables, links and pictures, and takes away every style, width and alternative text.
Pictures are shown at their own size, from http addresses or from addresses relative to the page; `data:` is
taken away. Relative ones are used: they also work behind a proxy, where `CLASSY_MLFLOW_URI` is a name that
only servers know. Cells of a table touch, hence the empty columns between them. PostgreSQL and MySQL refuse
a description of more than 5,000 characters, so what does not fit is counted, and the report has it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.models.links import monitor_url
from pipelines.review import telling
from pipelines.review.telling import Evidence
from pipelines.settings import Settings

MOST = 5000
"""Characters: the width of MLflow's column."""
REPORT = "report.html"
PICTURES = {
    "confusion.png": "What the contender confuses less, and more",
    "disagreements.png": "Twenty photos on which they disagree",
    "slices.png": "Who wins where",
    "reliability.png": "Whether its confidence can be believed",
}
LEVELS = ((20, 400, 12), (8, 400, 8), (6, 300, 6), (4, 250, 4), (3, 200, 3), (2, 120, 2), (1, 80, 1))
"""Reasons, characters of each, and names in each list: the first that fits is taken."""
GUARDED = {"pass": "holds", "fail": "**too much**", "unknown": "**cannot tell**", "not asked": "not asked"}
MARKS = {"fail": "fails", "unknown": "cannot tell", "pass": "holds"}
MOST_GATES = 12
NAME = 40
"""Characters of a name that is not ours."""
MARKUP = re.compile(r"[^\w\s.,;:=?!$()+/%'−–…°×≥≤-]|:(?=\S)")


def markdown(evidence: Evidence, settings: Settings) -> str:
    """All that a reviewer needs to decide, in at most `MOST` characters."""
    for reasons, length, names in LEVELS:
        blocks = _blocks(evidence, settings, reasons=reasons, length=length, names=names)
        text = "\n\n".join(blocks)
        if len(text) <= MOST:
            return text
    # Names at their longest in every place: what stands last is left to the report.
    while len(text) > MOST:
        blocks.pop()
        text = "\n\n".join(blocks)
    return text


def _blocks(evidence: Evidence, settings: Settings, *, reasons: int, length: int, names: int) -> list[str]:
    server = settings.mlflow_uri.startswith(("http://", "https://"))
    blocks = [
        f"## {evidence['verdict']}: {_words(telling.headline(evidence), 120)}",
        _words(telling.judged_on(evidence), 160),
        _reasons(evidence, reasons, length),
        _links(evidence, settings, server),
        _metrics(evidence),
        _ratios(evidence),
        _slices(evidence, names),
        _behaviour(evidence),
        _sentence(telling.seeds(evidence)),
        _approval(evidence),
        "### Where it comes from",
        _facts("Data", telling.data(evidence)),
        _facts("Code", telling.code(evidence)),
        _facts("Training", telling.training(evidence)),
        _sentence(telling.golden_uses(evidence)),
        *_pictures(evidence, server),
    ]
    return [block for block in blocks if block]


# ---------------------------------------------------------------------------------------------- blocks


def _reasons(evidence: Evidence, most: int, length: int) -> str:
    findings = evidence["findings"]
    lines = [f"- **{MARKS[found['outcome']]}** {_words(found['sentence'], length)}" for found in findings[:most]]
    for outcome, mark in MARKS.items():
        rest = [_words(found["gate"], 24) for found in findings[most:] if found["outcome"] == outcome]
        if rest:
            more = f" and {len(rest) - MOST_GATES} more" if len(rest) > MOST_GATES else ""
            lines.append(f"- **{mark}**, as the report says: {', '.join(rest[:MOST_GATES])}{more}")
    return "\n".join(lines)


def _links(evidence: Evidence, settings: Settings, server: bool) -> str:
    run_id, url = evidence["contender"]["run_id"], evidence["contender"]["run_url"]
    if not server:
        return (
            f"The whole report is `judge/{REPORT}` of run `{run_id}`, beside the pictures, slices.csv, evidence.json."
        )
    page = "#" + url.partition("#")[2]
    return (
        f"**[The whole report]({page}/artifacts/judge/{REPORT})** · "
        f"[as a file]({_artifact(run_id, REPORT)}) · "
        f"[slices.csv]({_artifact(run_id, 'slices.csv')}) · [the run]({page}) · "
        f"[the monitor]({monitor_url(settings)})"
    )


def _artifact(run_id: str, name: str) -> str:
    return f"get-artifact?path=judge/{name}&run_uuid={run_id}"


def _metrics(evidence: Evidence) -> str:
    lines, part = [], ""
    for found in telling.metric_lines(evidence):
        first = found.part != part
        part = found.part
        where = f"**{part}** ({evidence['comparisons'][part]['rows']:,})" if first else ""
        cells = (where, found.metric, found.contender, found.opponent, found.gain, f"{found.low} to {found.high}")
        lines.append(f"|{'||'.join(cells)}|")
    if not lines:
        return "There were no rows to judge on."
    sure = f"each end {evidence['gates']['confidence']:.0%} sure"
    head = ("photos", "metric", "contender", _words(evidence["opponent"]["kind"]), "gain", sure)
    parts = [f"{part}: {words}" for part, words in telling.PARTS.items() if evidence["comparisons"][part]]
    note = f"A gain above 0 is for the contender, in log loss and calibration error too. Photos: {'; '.join(parts)}."
    return "\n".join([f"|{'|&emsp;|'.join(head)}|", "|---" * (2 * len(head) - 1) + "|", *lines, "", note])


def _ratios(evidence: Evidence) -> str:
    lines = [
        f"{found.gate} {_words(found.contender)} against {_words(found.opponent)}, {found.factor} times "
        f"({found.allowed} allowed: {GUARDED[found.outcome]})"
        for found in telling.ratio_lines(evidence)
    ]
    return f"**Guardrails**: {'; '.join(lines)}." if lines else ""


def _slices(evidence: Evidence, most: int) -> str:
    groups = telling.slices_by_standing(evidence)
    if not evidence["slices"]:
        return ""

    def names(rows: Sequence[Mapping[str, Any]], number: Callable[[Mapping[str, Any]], str]) -> str:
        said = [f"{_words(row['column'])} {_words(row['value'])} ({number(row)})" for row in rows[:most]]
        return ", ".join([*said, f"and {len(rows) - most} more"] if len(rows) > most else said) or "none"

    def difference(row: Mapping[str, Any]) -> str:
        return telling.signed(row["difference"])

    judged = sum(len(groups[standing]) for standing in ("won", "lost", "even"))
    lines = [
        f"**Slices won**: {names(groups['won'], difference)}.",
        f"**Lost**: {names(groups['lost'], difference)}.",
        f"{judged} judged, adjusted for that number (Holm); gates.slice_margin allows a loss of "
        f"{evidence['gates']['slice_margin']:g}.",
    ]
    if small := telling.too_small(evidence):
        few = evidence["gates"]["slice_min_rows"]
        lines.append(f"**Too small to judge** (under {few} photos): {names(small, lambda row: str(row['rows']))}.")
    return " ".join(lines)


def _behaviour(evidence: Evidence) -> str:
    said = []
    for row in evidence["behaviour"]:
        opponent = "" if row["opponent"] is None else f", opponent {row['opponent']:.0%}"
        outcome = "" if row["passed"] else " **fails**"
        said.append(
            f"{telling.BEHAVIOUR.get(row['test'], row['test'])} {row['contender']:.0%}{opponent} "
            f"({row['asked']:.0%} asked){outcome}"
        )
    return f"**Behaviour**: {'; '.join(said)}." if said else ""


def _approval(evidence: Evidence) -> str:
    return "### What is asked of you\n\n" + "\n".join(f"- {step}" for step in telling.approval(evidence))


def _facts(about: str, lines: Sequence[tuple[str, str]]) -> str:
    return f"**{about}**: {', '.join(f'{name} {_words(value, 160)}' for name, value in lines)}."


def _sentence(text: str | None) -> str:
    return f"{_words(text, 300)}." if text else ""


def _pictures(evidence: Evidence, server: bool) -> list[str]:
    if evidence["comparisons"]["pooled"] is None or not server:
        return []
    run_id = evidence["contender"]["run_id"]
    return [f"### {words}\n\n![{name}]({_artifact(run_id, name)})" for name, words in PICTURES.items()]


# -------------------------------------------------------------------------------------------- escaping


def _words(text: str, most: int = NAME) -> str:
    """Other people's text as text: nothing in it is markup, a link, a mention or a smiley."""
    text = " ".join(str(text).split())
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    text = MARKUP.sub(lambda found: f"&#{ord(found[0])};", text)
    # A whole word between two of them would be emphasis, and a bare address a link.
    return re.sub(r"(?<!\w)_|_(?!\w)", "&#95;", text).replace("www.", "www&#46;")
