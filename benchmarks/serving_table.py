"""Put the figures of HOME/bench/serving.json, and of another network if they are there, into docs/serving-bench.md.

python -m benchmarks.serving_table
"""

import json
import sys
from typing import Any

from pipelines.recipe import ROOT
from pipelines.settings import load_settings

PAGE = ROOT / "docs" / "serving-bench.md"
BEGIN, END = "<!-- figures: python -m benchmarks.serving_table -->", "<!-- end of figures -->"


def table(found: dict[str, Any]) -> str:
    """The measured rows as Markdown."""
    lines = [
        f"Measured on {found['machine']}, commit `{found['commit']}`, by `make bench`.",
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


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> int:
    folder = load_settings().home / "bench"
    told = table(json.loads((folder / "serving.json").read_text()))
    for other in sorted(folder.glob("serving-resnet18.json")):
        told += f"\n\n### With a ResNet-18 at 128 pixels\n\n{table(json.loads(other.read_text()))}"
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{told}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
