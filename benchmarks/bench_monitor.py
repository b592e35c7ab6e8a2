"""A day's monitoring where ten million answers are logged: time and memory of `classy monitor` in a process of its own.

    python -m benchmarks.bench_monitor [--rows 10000000]

The home is that of the serving benchmarks, with a champion from MLflow. The answers are of the 30 days after it, a
tenth of them labelled within two days, and every one of those days is one of the same drift: so accuracy is measured on
all of them. The day's own photos, a thirtieth, have been scored in bulk, with their embeddings. Data are made up; the
step, its store, its files and the champion's run are what they always are. Making the data is nobody's time.
"""

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import world
from benchmarks.record import Row, record
from pipelines.recipe import ROOT, Recipe, load_recipe
from pipelines.settings import Settings, load_settings
from serving.pictures import STATS

ROWS = 10_000_000
DAYS, SENDERS, LABELLED = 30, 300, 10
"""Days of answers, senders, and one label in so many answers."""
WIDTH = 64
"""Of an embedding."""
LIMIT_S, LIMIT_GIB = 300.0, 2.0


def measure(*, rows: int = ROWS, repeats: int = 3) -> list[Row]:
    """Make the data, watch the last day `repeats` times, and record it as `monitor`."""
    made = world.settle()
    home = load_settings().home / "bench"
    with tempfile.TemporaryDirectory(dir=home, prefix="monitor-") as name:
        folder = Path(name)
        settings = load_settings(
            home=made.settings.home, recipe=str(made.recipe_path), data_root=str(folder / "data"),
            database_url=f"sqlite:///{folder / 'classy.db'}", mlflow_uri="", features_root="",
        )  # fmt: skip
        day = _fill(settings, made.settings, made.recipe, rows)
        found = []
        for _ in range(repeats):
            shutil.rmtree(folder / "data" / "monitor" / f"date={day}", ignore_errors=True)
            found.append(_watched(settings, day))
    told = found[0]
    assert told["photos"] == rows, f"{told['photos']} photos were measured, {rows} are there"
    seconds, memory = sorted(one["seconds"] for one in found), max(one["gib"] for one in found)
    about = f"{repeats} runs, {seconds[0]:.0f} to {seconds[-1]:.0f} s; {rows:,} answers, {told['labelled']:,} labelled"
    lines = [
        Row(name="ten_million", ours=seconds[len(seconds) // 2], other=LIMIT_S, other_name="limit", unit="s",
            better="less", spread=about),
        Row(name="ten_million_memory", ours=memory, other=LIMIT_GIB, other_name="limit", unit="GiB", better="less",
            spread=f"the most of {repeats} runs, resident"),
    ]  # fmt: skip
    record("monitor", lines, rows_logged=rows, database_bytes=told["database_bytes"])
    return lines


def _watched(settings: Settings, day: date) -> dict[str, float]:
    given = [settings.home, settings.recipe, settings.data_root, settings.database_url, day]
    command = [sys.executable, "-m", "benchmarks.bench_monitor", "--watch", *map(str, given)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2_000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _watch(given: Sequence[str]) -> dict[str, float]:
    """In the child: one run of the step, its imports included."""
    started = time.perf_counter()
    from pipelines import monitor
    from pipelines.models.evidence import read_evidence

    home, recipe, data_root, database_url, day = given
    settings = load_settings(
        home=Path(home), recipe=recipe, data_root=data_root, database_url=database_url, mlflow_uri="", features_root=""
    )
    monitor.run(settings, load_recipe(recipe), day=date.fromisoformat(day))
    seconds = time.perf_counter() - started
    evidence = read_evidence(settings, date.fromisoformat(day))
    assert evidence is not None
    measured = evidence["since_drift"]["performance"]
    return {
        "seconds": seconds,
        "gib": _most_resident() / 2**20,
        "photos": measured["photos"],
        "labelled": measured["accuracy"]["rows"],
        "database_bytes": Path(database_url.removeprefix("sqlite:///")).stat().st_size,
    }


def _most_resident() -> int:
    """This process's largest resident size, KiB. `ru_maxrss` would be the parent's, where that was larger."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])


# ------------------------------------------------------------------------------------------------------ data


def _fill(settings: Settings, of: Settings, recipe: Recipe, rows: int) -> date:
    """Everything that the last day is watched with. Gives that day."""
    from monitoring.stores import open_store

    deployed = open_store(of.database_url).generation(1)
    assert deployed is not None
    open_store(settings.database_url).add_generation(deployed)
    first = deployed["as_of"].date()
    _answers(settings, recipe, first, rows)
    _reference(settings, recipe, deployed["champion_run_id"], first)
    day = first + timedelta(days=DAYS - 1)
    _scores(settings, recipe, day, rows // DAYS)
    for back in range(1, DAYS):
        _earlier(settings, day - timedelta(days=back))
    return day


def _answers(settings: Settings, recipe: Recipe, first: date, rows: int) -> None:
    """In SQL, where ten million take two minutes. Indices are made at the end, and are the migrations' own."""
    path = settings.database_url.removeprefix("sqlite:///")
    classes = json.dumps(list(recipe.taxonomy.classes))
    share = f"[{','.join(['0.0123456789'] * len(recipe.taxonomy.classes))}]"
    context = f"[{','.join(['0.123456'] * 16)}]"
    with sqlite3.connect(path) as connection:
        run = connection.execute
        for pragma in ("synchronous=OFF", "cache_size=-1000000"):
            run(f"PRAGMA {pragma}")
        made = "SELECT name, sql FROM sqlite_master WHERE type='index' AND tbl_name='predictions' AND sql IS NOT NULL"
        indices = run(made).fetchall()
        for name, _ in indices:
            run(f"DROP INDEX {name}")
        run(
            f"""
            WITH RECURSIVE number(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < {rows - 1})
            INSERT INTO predictions (prediction_id, image_id, source_id, captured_at, predicted_at, label, confidence,
              probabilities, model_version, run_id, generation, arm, channel, service_hash, defaulted, content_hash,
              context, cached)
            SELECT printf('%016x', n) || hex(randomblob(24)), 'photo-' || printf('%010d', n),
              'sender-' || (abs(random()) % {SENDERS}),
              strftime('%Y-%m-%d %H:%M:%S', :first, (n * {DAYS * 86_400} / {rows}) || ' seconds') || '.000000',
              strftime('%Y-%m-%d', :first, (n * {DAYS} / {rows} + 1) || ' days') || ' 00:00:00.000000',
              json_extract(:classes, '$[' || (abs(random()) % {len(recipe.taxonomy.classes)}) || ']'),
              0.5 + (abs(random()) % 500) / 1000.0, :share, '1', 'run', 1, 'champion', 'batch', 'service', 0,
              hex(randomblob(32)), :context, 0 FROM number
            """,
            {"first": str(first), "classes": classes, "share": share, "context": context},
        )
        run(
            f"""
            INSERT INTO ground_truth (image_id, label, labelled_at, said_by)
            SELECT image_id, CASE WHEN abs(random()) % 10 THEN label ELSE :other END,
              strftime('%Y-%m-%d %H:%M:%S', captured_at, (abs(random()) % 172800) || ' seconds') || '.000000', 'people'
            FROM predictions WHERE rowid % {LABELLED} = 0
            """,
            {"other": recipe.taxonomy.classes[0]},
        )
        for _, statement in indices:
            run(statement)


def _columns(recipe: Recipe, rows: int, start: date, days: int, *, shifted: float, seed: int) -> dict[str, pa.Array]:
    random, classes = np.random.default_rng(seed), np.asarray(recipe.taxonomy.classes)
    p = random.dirichlet(np.full(len(classes), 0.3), rows).astype(np.float32)
    seconds = np.sort(random.integers(0, days * 86_400, rows))
    captured = np.datetime64(str(start), "us") + seconds.astype("timedelta64[s]")
    answers = pa.array(classes[p.argmax(axis=1)])
    probabilities = pa.FixedSizeListArray.from_arrays(p.ravel(), len(classes)).cast(pa.list_(pa.float32()))
    return {
        "image_id": pa.array([f"{start}-{n}" for n in range(rows)]),
        "source_id": pa.array([f"sender-{n % SENDERS}" for n in range(rows)]),
        "captured_at": pa.array(captured, pa.timestamp("us")).cast(pa.timestamp("us", "UTC")),
        "answer": answers,
        "confidence": pa.array(p.max(axis=1)),
        "probabilities": probabilities,
        "picture_label": answers,
        "picture_probabilities": probabilities,
        "embedding": pa.FixedSizeListArray.from_arrays(
            random.normal(shifted, 1, rows * WIDTH).astype(np.float32), WIDTH
        ).cast(pa.list_(pa.float32())),
        **{stat: pa.array(random.normal(shifted, 1, rows)) for stat in STATS},
    }


def _reference(settings: Settings, recipe: Recipe, run_id: str, first: date) -> None:
    from pipelines.models import tracking

    columns = _columns(recipe, 2_000, first - timedelta(days=5), 5, shifted=0.0, seed=1)
    columns["predicted"] = columns.pop("answer")
    columns["label"] = columns["predicted"]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / Path(tracking.REFERENCE).name
        pq.write_table(pa.table(columns), path)
        tracking.connect(settings).log_artifact(run_id, str(path), str(Path(tracking.REFERENCE).parent))


def _scores(settings: Settings, recipe: Recipe, day: date, rows: int) -> None:
    from pipelines import files
    from pipelines.models.evidence import scores_root
    from pipelines.score import PREDICTIONS, SCHEMA

    columns = _columns(recipe, rows, day, 1, shifted=0.5, seed=2)
    columns["label"] = columns.pop("answer")
    columns["prediction_id"] = columns["content_hash"] = columns["image_id"]
    columns["defaulted"] = pa.array(np.zeros(rows, bool))
    columns["context"] = pa.array([[0.0]] * rows, pa.list_(pa.float32()))
    table = pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)
    with files.new_partition(files.join(scores_root(settings, day), "generation=1")) as draft:
        pq.write_table(table, draft.folder / PREDICTIONS)
        draft.meta = {"version": "1", "generation": 1, "rows": rows}


def _earlier(settings: Settings, day: date) -> None:
    """A day before, as far as the next one asks: it was one of this drift."""
    from pipelines import files
    from pipelines.models.evidence import EVIDENCE, monitor_root

    columns = [{"name": name, "verdict": "DRIFT"} for name in STATS]
    champion = {"version": "1", "generation": 1}
    found = {"day": str(day), "verdict": "DRIFT", "champion": champion, "drift": {"columns": columns}}
    with files.new_partition(monitor_root(settings, day)) as draft:
        (draft.folder / EVIDENCE).write_text(json.dumps(found))
        draft.meta = {"day": str(day), "verdict": "DRIFT"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--watch", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.watch:
        print(json.dumps(_watch(asked.watch)))
    else:
        for row in measure(rows=asked.rows, repeats=asked.repeats):
            print(json.dumps(row.as_json()))
