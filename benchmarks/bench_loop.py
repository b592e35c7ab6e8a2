"""What orchestration costs: the whole digits loop under Airflow, and parsing the DAG folder.

    uv run python -m benchmarks.bench_loop [RUNS]

Each run is `classy run` from nothing. The limits are the project's own: 10 minutes, 2 s a task beyond its work,
2 s for a parse without an ML import.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile

from benchmarks.record import Row, record
from pipelines.recipe import ROOT

PARSE = """
import time
from airflow.dag_processing.dagbag import DagBag
started = time.perf_counter()
bag = DagBag({folder!r})
assert not bag.import_errors and len(bag.dags) == 4
print("SECONDS", time.perf_counter() - started)
"""


def loop_once() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "CLASSY_HOME": home, "CLASSY_RECIPE": "digits"}
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", "run", "--json"],
            env=env,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(done.stdout)


def parse_once() -> float:
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
               "PYTHONPATH": os.pathsep.join([str(ROOT / "dags"), str(ROOT)])}  # fmt: skip
        code = PARSE.format(folder=str(ROOT / "dags"))
        done = subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split("SECONDS")[1])


def row(name: str, values: list[float], limit: float, unit: str) -> Row:
    spread = f"{min(values):.2f} to {max(values):.2f}, {len(values)} runs"
    return Row(name=name, ours=round(statistics.median(values), 3), other=limit, other_name="limit", unit=unit,
               better="less", spread=spread)  # fmt: skip


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    loops = [loop_once() for _ in range(runs)]
    assert all(found["closed"] for found in loops)
    beyond = [(found["wall_s"] - found["work_s"]) / found["tasks"] for found in loops]
    rows = [
        row("make_run", [found["wall_s"] for found in loops], 600, "s"),
        row("orchestration", beyond, 2, "s a task"),
        row("dag_parse", [parse_once() for _ in range(5)], 2, "s"),
    ]
    print(record("loop", rows))


if __name__ == "__main__":
    main()
