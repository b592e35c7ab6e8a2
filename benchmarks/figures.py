"""Put what was measured last, in HOME/bench, into the pages of docs/ that show it.

    python -m benchmarks.figures              # all pages
    python -m benchmarks.figures training

A page shows NAME.json between `<!-- figures: python -m benchmarks.figures NAME -->` and `<!-- end of figures -->`.
"""

import json
import sys
from typing import Any

from benchmarks.record import before, path_of
from pipelines.recipe import ROOT

PAGES = {"serving": "serving-bench.md", "training": "training.md"}
BEGIN, END = "<!-- figures: python -m benchmarks.figures {} -->", "<!-- end of figures -->"


def table(found: dict[str, Any]) -> str:
    """The measured rows as Markdown."""
    lines = [
        f"Measured on {found['machine']}, last at commit `{found['commit']}`, by `make bench`.",
        "",
        "| figure | ours | other | unit | ratio | goal |",
        "|---|---:|---:|---|---:|---:|",
    ]
    for row in found["rows"]:
        other = f"{_short(row['other'])} {row['other_name']}"
        goal = f"{row['goal']:g}" if row["holds"] else f"{row['goal']:g}, missed"
        cells = (f"`{row['name']}`", _short(row["ours"]), other, row["unit"], f"{row['ratio']:.2f}×", goal)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Lowest and highest of the runs:", ""]
    lines += [f"- `{row['name']}`: {row['spread']}" for row in found["rows"] if row["spread"]]
    if missing := found.get("missing"):
        lines += ["", "Missing:", "", *(f"- {name}: {why}" for name, why in missing.items())]
    return "\n".join(lines)


def features(entries: list[dict[str, Any]]) -> str:
    """What each feature of a training is worth, as Markdown."""
    lines = ["| photos | switched | seconds | best accuracy | seed by seed |", "|---|---|---:|---:|---|"]
    for entry in entries:
        each = ", ".join(f"{value:.1%}" for value in entry["accuracies"])
        cells = (entry["data"], entry["feature"], f"{entry['seconds']:.3g}", f"{entry['accuracy']:.1%}", each)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def accuracies(entries: list[dict[str, Any]]) -> str:
    """Accuracy on senders that were held out, as Markdown."""
    lines = [
        "| photos | epochs | seconds | mean | standard deviation | seed by seed |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for entry in entries:
        each = ", ".join(f"{value:.1%}" for value in entry["accuracies"])
        cells = (entry["data"], entry["epochs"], f"{entry['seconds']:.3g}", f"{entry['mean']:.1%}",
                 f"{entry['stdev']:.1%}", each)  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def told(name: str) -> str:
    """All that a page shows of one benchmark.

    Raises:
        FileNotFoundError: it was not run.
    """
    found = json.loads(path_of(f"{name}.json").read_text())
    parts = [table(found)]
    if name == "serving" and (other := before("serving-resnet18"))["rows"]:
        parts += ["### With a ResNet-18 at 128 pixels", table(other)]
    if entries := found.get("features"):
        parts += ["Each feature switched alone, the others as the recipe has them:", features(entries)]
    if entries := found.get("accuracy"):
        parts += ["On senders that were held out, others with each seed:", accuracies(entries)]
    return "\n\n".join(parts)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> int:
    for name in sys.argv[1:] or PAGES:
        if name not in PAGES:
            print(f"{name}: no page shows it; {', '.join(PAGES)} are shown", file=sys.stderr)
            return 2
        page, begin = ROOT / "docs" / PAGES[name], BEGIN.format(name)
        try:
            text = told(name)
        except FileNotFoundError as error:
            print(f"{error.filename}: not measured yet; `python -m benchmarks.bench_{name}` measures", file=sys.stderr)
            return 1
        head, _, rest = page.read_text().partition(begin)
        _, _, tail = rest.partition(END)
        page.write_text(f"{head}{begin}\n{text}\n{END}{tail}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
