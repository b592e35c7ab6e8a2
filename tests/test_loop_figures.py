"""What a server tells of the loop behind it: from real decisions and evidence, once, and the last known when blind."""

import json
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest

from monitoring.days import end_of
from monitoring.health import NAMES
from monitoring.performance import share
from monitoring.stores import open_store
from pipelines import decide
from pipelines.models.evidence import EVIDENCE, monitor_root
from pipelines.online.loop_figures import LoopFigures, of_evidence
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.loop_metrics import GAUGES, families
from serving.metrics import Metrics
from tests.test_decide import DAY, decide_on, write_evidence
from tests.test_metrics import values

COHORT = {
    "since": str(DAY),
    "performance": {"accuracy": asdict(share(90, 150)), "photos": 200, "coverage": 0.75},
    "loss": {"loss": 0.3, "p": 1e-6, "significant": True},
}
COLUMNS = [{"name": "brightness", "verdict": "DRIFT"}, {"name": "contrast", "verdict": "UNKNOWN"}]
DRIFT = {"reasons": ["brightness"], "window_rows": 200, "columns": COLUMNS}
WHOLE = {"drift": DRIFT, "lately": COHORT, "since_drift": COHORT}


def fact(name: str, state: str, value: float | None) -> dict:
    return {"name": name, "value": value, "unit": "share", "state": state, "sentence": ""}


def scraped(figures: LoopFigures) -> dict[tuple[str, str], float]:
    metrics = Metrics()
    metrics.watch(loop=figures)
    return {key: value for key, value in values(metrics).items() if key[0] in {gauge.name for gauge in GAUGES}}


def test_before_anything_was_decided_only_the_reading_is_told(settings: Settings) -> None:
    figures = LoopFigures(settings, clock=lambda: 7.0)
    assert scraped(figures) == {}
    figures.read()
    assert scraped(figures) == {("classy_loop_read_timestamp_seconds", ""): 7.0}


@pytest.mark.usefixtures("database_url")
def test_the_newest_day_is_told(settings: Settings, recipe: Recipe) -> None:
    store = open_store(settings.database_url)
    store.add_generation(
        {
            "generation": 1, "champion_version": "1", "champion_run_id": "r", "canary_weight": 0.0, "kind": "drop",
            "actor": "tester", "reason": "test", "run_key": "r", "as_of": end_of(DAY), "created_at": end_of(DAY),
        }
    )  # fmt: skip
    decide_on(settings, recipe, -1, **WHOLE, verdict="NO DRIFT")
    health = [fact("quarantine_rate", "BAD", 0.1), fact("latency_p99", "UNKNOWN", None), fact("x" * 99, "BAD", 1)]
    estimate = {"value": 0.55, "low": 0.5, "high": 0.6}
    decided = decide_on(
        settings, recipe, 0, **WHOLE, health=health, estimate=estimate, labels={"coverage": 0.5, "photos": 3}
    )
    figures = LoopFigures(settings)
    figures.read()
    found = scraped(figures)
    assert found["classy_monitor_day_timestamp_seconds", ""] == end_of(DAY).timestamp()
    assert {labels: value for (name, labels), value in found.items() if name == "classy_monitor_verdict"} == {
        "verdict=DRIFT": 1, "verdict=NO DRIFT": 0, "verdict=UNKNOWN": 0,
    }  # fmt: skip
    assert found["classy_decision", f"action={decided.action}"] == 1
    assert sum(value for (name, _), value in found.items() if name == "classy_decision") == 1
    assert found["classy_incident_open", ""] == float(decided.incident is not None)
    assert found["classy_monitor_columns_drifted", ""] == 1
    assert found["classy_monitor_accuracy_ratio", "bound=value,of=measured"] == 0.6
    assert found["classy_monitor_accuracy_ratio", "bound=low,of=estimated"] == 0.5
    assert found["classy_monitor_accuracy_ratio", "bound=value,of=reference"] == 0.9
    assert found["classy_monitor_loss_ratio", ""] == 0.3
    assert found["classy_monitor_loss_sure", ""] == 1
    assert found["classy_monitor_label_coverage_ratio", ""] == 0.5
    assert found["classy_health", "name=quarantine_rate,state=BAD"] == 1
    assert found["classy_health", "name=latency_p99,state=UNKNOWN"] == 1
    assert found["classy_health_value", "name=quarantine_rate"] == 0.1
    assert not any("xx" in labels or "latency" in labels for name, labels in found if name == "classy_health_value")
    assert found["classy_deployment_kind", "kind=drop"] == 1
    assert found["classy_deployment_timestamp_seconds", ""] == end_of(DAY).timestamp()


def test_evidence_of_an_earlier_classy_lacks_parts(settings: Settings, recipe: Recipe) -> None:
    decide_on(settings, recipe, 0, **WHOLE)
    figures = LoopFigures(settings)
    figures.read()
    names = {name for name, _ in scraped(figures)}
    assert "classy_monitor_label_coverage_ratio" in names
    assert not {"classy_health", "classy_health_value"} & names


def test_a_decision_whose_evidence_is_not_here_is_told_alone(settings: Settings, recipe: Recipe) -> None:
    """As on a machine that serves and shares only the database with the loop."""
    decide_on(settings, recipe, 0, **WHOLE)
    figures = LoopFigures(settings.model_copy(update={"data_root": str(settings.home / "elsewhere")}))
    figures.read()
    names = {name for name, _ in scraped(figures)}
    assert {"classy_decision", "classy_monitor_loss_sure"} <= names
    assert "classy_monitor_verdict" not in names


def test_what_was_read_stays_while_it_cannot_be_read_and_its_age_shows(
    settings: Settings, recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    decide_on(settings, recipe, 0, **WHOLE)
    clock = iter([100.0, 200.0])
    figures = LoopFigures(settings, clock=lambda: next(clock))
    figures.read()
    before = scraped(figures)
    evidence = Path(monitor_root(settings, DAY)) / EVIDENCE
    whole = evidence.read_text()
    evidence.write_text("{")
    figures.read()
    assert scraped(figures) == before
    assert "cannot be read" in caplog.text
    evidence.write_text(json.dumps({**json.loads(whole), "verdict": "NO DRIFT"}))
    figures.read()
    after = scraped(figures)
    assert after["classy_loop_read_timestamp_seconds", ""] == 200
    assert after["classy_monitor_verdict", "verdict=NO DRIFT"] == 1


def test_however_many_facts_there_are_the_labels_are_few(settings: Settings, recipe: Recipe) -> None:
    health = [fact(name, "BAD", 1.0) for name in (*NAMES, *(f"made-up-{number}" for number in range(500)))]
    write_evidence(settings, DAY, **WHOLE, health=health)
    decide.run(settings, recipe, day=DAY)
    found = of_evidence(json.loads((Path(monitor_root(settings, DAY)) / EVIDENCE).read_text()))
    assert sum(len(family.samples) for family in families(found)) < 100


def test_a_figure_without_a_gauge_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no gauge for classy_moon"):
        list(families({"classy_moon": {(): 1.0}}))


def test_a_late_decision_about_an_old_day_is_not_the_newest(settings: Settings, recipe: Recipe) -> None:
    decide_on(settings, recipe, 1, **WHOLE)
    decide_on(settings, recipe, -3, **WHOLE)
    figures = LoopFigures(settings)
    figures.read()
    day = end_of(DAY + timedelta(days=1))
    assert scraped(figures)["classy_monitor_day_timestamp_seconds", ""] == day.timestamp()
