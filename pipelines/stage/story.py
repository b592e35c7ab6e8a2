"""Play the loop from nothing and write what it came to: `summary.json` and `timeline.png` in HOME/loop.

The story has a home of its own, HOME/loop, and starts it anew each time: it never touches a home with real data.
"""

import json
import shutil
from collections.abc import Callable
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.errors import ClassyError
from pipelines.files import write_text
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings

MARK = ".classy-loop"
"""A file that says: this folder was made by the story and may be made anew."""

Say = Callable[[str], None]


def fresh_home(settings: Settings, recipe: Recipe) -> Settings:
    """Settings whose home is an empty HOME/loop.

    Raises:
        ClassyError: there is a folder that the story did not make.
    """
    home = settings.home / "loop"
    if home.exists() and any(home.iterdir()):
        if not (home / MARK).exists():
            raise ClassyError(
                f"{home} was not made by `classy run`; move it away, or set CLASSY_HOME to another folder"
            )
        shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    (home / MARK).touch()
    keep = {name: getattr(settings, name) for name in ("recipe", "model_name", "device", "threads", "actor")}
    own = ("data_root", "database_url", "mlflow_uri", "features_root")
    return load_settings(home=home, **keep, **dict.fromkeys(own, ""))


def play_locally(settings: Settings, recipe: Recipe, say: Say) -> Any:
    """The story without Airflow. Returns its `Summary`."""
    from pipelines.loop import LocalStage, play

    settings = fresh_home(settings, recipe)
    started = perf_counter()
    stage = LocalStage(settings, recipe, say=say)
    play(recipe, stage, say)
    return _finish(settings, recipe, stage.tasks, perf_counter() - started, stage.work_s)


def play_under_airflow(settings: Settings, recipe: Recipe, say: Say) -> Any:
    """The story under a real scheduler and MLflow server; stops both at its end, also on Ctrl-C or TERM."""
    from pipelines.loop import play
    from pipelines.stage.airflow_client import AirflowClient
    from pipelines.stage.airflow_stage import AirflowStage
    from pipelines.stage.stack import Stack, interrupt_once, interrupts_to

    settings = fresh_home(settings, recipe)
    started = perf_counter()
    with interrupts_to(interrupt_once), Stack(settings, replay=True, say=say) as stack:
        client = AirflowClient(stack.airflow_url, stack.password)
        stage = AirflowStage(settings, recipe, stack, client, say)
        stage.open()
        say(f"ready after {perf_counter() - started:.0f} s; user admin, password {stack.password}")
        play(recipe, stage, say)
        tasks, work_s = client.work_done()
        wall_s = perf_counter() - started
    return _finish(settings, recipe, tasks, wall_s, work_s)


def _finish(settings: Settings, recipe: Recipe, tasks: int, wall_s: float, work_s: float) -> Any:
    from monitoring.stores import open_store
    from monitoring.timeline import draw_timeline
    from pipelines.stage.summary import summarise

    summary = summarise(settings, recipe, open_store(settings.database_url), tasks=tasks, wall_s=wall_s, work_s=work_s)
    draw_timeline(summary.as_json(), settings.home / "timeline.png")
    write_text(str(settings.home / "summary.json"), json.dumps(summary.as_json(), indent=1))
    return summary


def table(summary: Any, console: Console) -> None:
    """The summary for people."""
    rows = Table("day", "photos", "accuracy", "drift", "decision", "champion")
    for day in summary.days:
        accuracy = "–" if day.accuracy is None else f"{day.accuracy:.1%}"
        if day.date == summary.drift_from:
            rows.add_section()
        champion = f"v{day.champion}" if day.champion else "–"
        rows.add_row(day.date, str(day.photos or "–"), accuracy, day.drift or "–", day.action or "–", champion)
    console.print(rows)
    console.print(f"the world changes on {summary.drift_from}" if summary.drift_from else "the world does not change")
    shares = (_share(summary.accuracy_before), _share(summary.accuracy_drifted), _share(summary.accuracy_after))
    console.print("accuracy before {}, after the change {}, after the retraining {}".format(*shares))
    console.print(f"detected {summary.detected_on}, retrained {summary.retrained_on}, recovered {summary.recovered_on}")
    console.print(f"retrainings before the change: {summary.false_retrains}")
    beyond = (summary.wall_s - summary.work_s) / max(summary.tasks, 1)
    console.print(
        f"{summary.tasks} tasks, {summary.wall_s:.0f} s, work {summary.work_s:.0f} s: {beyond:.2f} s a task beyond it"
    )
    console.print(
        "[bold green]the loop closed" if summary.closed else f"[bold red]not closed: {', '.join(summary.missing)}"
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
