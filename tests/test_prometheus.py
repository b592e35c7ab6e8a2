"""Prometheus' rules and Grafana's dashboard: loaded by the real programs, on figures of a real server."""

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import grafana_foundation_sdk.cog.plugins
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from pipelines import decide, monitor, score
from pipelines.recipe import ROOT, load_recipe
from pipelines.settings import load_settings
from serving.client import Client, Problem
from tests.alerts import CASES, HEALTHY
from tests.champions import install_champion, prepare_days
from tests.prometheus import Prometheus, binary, prometheus
from tests.test_metrics import full
from tests.test_serve import RECIPE, start, where
from tests.worlds import make_world

RULES = ROOT / "docker" / "prometheus" / "rules.yml"
CONFIG = ROOT / "docker" / "prometheus" / "prometheus.yml"
GRAFANA = ROOT / "docker" / "grafana"
PAGE = ROOT / "docs" / "health.md"
NAME = re.compile(r"\b(?:classy|process)_[a-z0-9_]+")
NOT_YET = re.compile(r"_total\{[^}]*(5\.\.|spooled|shed)|classy_lane_refused|classy_photos_defaulted|classy_problems")
"""Parts of expressions that have no data while nothing of the kind happened."""


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def dashboard() -> dict[str, Any]:
    return json.loads((GRAFANA / "dashboards" / "classy.json").read_text())


def shown() -> list[dict[str, Any]]:
    """The dashboard's panels that show something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def asked() -> list[str]:
    """The dashboard's expressions, as Grafana sends them when everything is chosen."""
    found = [target["expr"] for panel in shown() for target in panel["targets"]]
    found += [annotation["expr"] for annotation in dashboard()["annotations"]["list"]]
    return [expr.replace("$__rate_interval", "1m").replace("$job", ".+") for expr in found]


def exposed() -> set[str]:
    """Names of all samples that /metrics can show."""
    return {sample.name for family in full().families() for sample in family.samples}


# --------------------------------------------------------------------------------------------------- rules


def promtool(*arguments: str, given: str | None = None) -> str:
    done = subprocess.run(
        [binary("promtool"), *arguments], input=given, capture_output=True, text=True, check=False, cwd=RULES.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_rules_and_the_configuration_are_right(tmp_path: Path) -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", str(RULES))
    for file in (RULES, CONFIG):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "classy.key").touch()  # a person makes it
    promtool("check", "config", str(tmp_path / CONFIG.name))


def test_each_alert_tells_of_its_trouble_and_no_other_does(tmp_path: Path) -> None:
    tests = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [case.as_yaml() for case in CASES]}
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump(tests))
    promtool("test", "rules", str(file))


def test_each_alert_is_tried_and_has_a_page() -> None:
    assert {name for case in CASES for name in case.alerts} == set(alerts())
    titles = {title.lower() for title in re.findall(r"^### (\w+)$", PAGE.read_text(), re.MULTILINE)}
    assert titles == {name.lower() for name in alerts()}
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] == f"docs/health.md#{name.lower()}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_rules_and_dashboard_ask_for_figures_that_there_are() -> None:
    known = exposed()
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for expression in [*(rule["expr"] for rule in rules()), *asked()]:
        assert set(NAME.findall(re.sub(r"classy:[\w:]+", "", expression))) <= known, expression
        assert set(re.findall(r"classy:[\w:]+", expression)) <= recorded, expression
    assert {name.split("{")[0] for name in HEALTHY} - {"up"} <= known


# ----------------------------------------------------------------------------------------------- dashboard


def test_grafana_s_schema_knows_every_field_of_the_dashboard() -> None:
    """What its own library reads and writes again is what was written, beside defaults that it adds."""
    grafana_foundation_sdk.cog.plugins.register_default_plugins()
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard())))
    assert list(lost(dashboard(), again)) == []


def lost(given: Any, again: Any, place: str = "") -> Iterator[str]:
    if isinstance(given, dict):
        for name, value in given.items():
            yield from lost(value, again[name], f"{place}.{name}") if name in again else [f"{place}.{name}"]
    elif isinstance(given, list):
        if len(given) != len(again):
            yield place
        for number, (one, other) in enumerate(zip(given, again, strict=False)):
            yield from lost(one, other, f"{place}[{number}]")
    elif given != again:
        yield f"{place}: {given!r} became {again!r}"


def test_panels_are_named_explained_and_lie_beside_each_other() -> None:
    board = dashboard()
    assert board["uid"] == "classy"
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in shown():
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        )  # fmt: skip
        assert apart, f"{one} {other}"


def test_grafana_is_given_the_dashboard_and_its_source() -> None:
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "classy.yml").read_text())["providers"]
    (source,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"]
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in compose["grafana"]["volumes"] if ":" in volume}
    assert (ROOT / "docker" / mounted[provider["options"]["path"]] / "classy.json").exists()
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert {"prometheus", "grafana"} <= compose.keys()


# ------------------------------------------------------------------------------------- a server and its loop


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus that scrapes `classy serve` with two workers, a day of whose loop was decided on."""
    root = tmp_path_factory.mktemp("watched")
    binary("prometheus")
    settings, recipe = load_settings(home=root / "var", actor="tester", threads=1), load_recipe(RECIPE)
    world = make_world(settings, recipe, days=3, per_day=60, senders=6)
    prepare_days(settings, recipe, world.clean_uris)
    install_champion(settings, recipe, world.days[:2])
    score.run(settings, recipe, day=world.days[2])
    monitor.run(settings, recipe, day=world.days[2])
    decide.run(settings, recipe, day=world.days[2])
    process = start(settings, "--workers", "2")
    try:
        found = where(process)
        scrape = {
            "job_name": "classy",
            "scrape_interval": "1s",
            "authorization": {"credentials_file": found["key_file"]},
            "static_configs": [{"targets": [found["rest"].removeprefix("http://")]}],
        }
        fast = {"evaluation_interval": "1s"}
        config = {"global": fast, "rule_files": [str(RULES)], "scrape_configs": [scrape]}
        with prometheus(root / "prometheus", config) as running:
            key = Path(found["key_file"]).read_text().strip()
            running.wait_for("classy_ready == 1")
            with Client(found["rest"], key=key) as client:
                for photo in world.photos["image"][:30]:
                    client.classify(photo, sender="sender-01")
                with pytest.raises(Problem):
                    client.classify(b"no photo", sender="sender-01")
                # A rate is between two scrapes: what was counted before the first one is in none.
                photo = world.photos["image"][0]
                running.wait_for(
                    "sum(rate(classy_requests_total[1m])) > 0", lambda: client.classify(photo, sender="sender-01")
                )
            running.wait_for("classy:request_errors:ratio_rate3d")
            running.wait_for("classy_health")
            yield running
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.slow
def test_prometheus_evaluates_every_rule_and_the_recorded_ones_have_data(watched: Prometheus) -> None:
    loaded = {rule["name"]: rule for rule in watched.rules()}
    assert set(loaded) == {rule.get("alert") or rule["record"] for rule in rules()}
    for rule in rules():
        watched.query(rule["expr"])
        name = rule.get("record")
        if name:
            assert watched.query(name), name
    assert {rule["health"] for rule in watched.rules()} == {"ok"}
    assert [rule["name"] for rule in loaded.values() if rule.get("state") == "firing"] == []


@pytest.mark.slow
def test_every_panel_has_data(watched: Prometheus) -> None:
    for expression in asked():
        found = watched.query(expression)
        if "changes(" not in expression and not NOT_YET.search(expression):
            assert found, expression


@pytest.mark.slow
def test_the_loop_s_figures_are_told_once_by_several_workers(watched: Prometheus) -> None:
    assert [float(row["value"][1]) for row in watched.query("sum(classy_decision)")] == [1]
    assert [float(row["value"][1]) for row in watched.query("sum(classy_monitor_verdict)")] == [1]
    assert watched.query('classy_health{name="photos",state="UNKNOWN"} == 1'), "two days are too few to compare with"
    assert [float(row["value"][1]) for row in watched.query("count(process_open_fds)")] == [2]


@pytest.mark.slow
def test_promtool_finds_nothing_to_mend_in_the_figures() -> None:
    promtool("check", "metrics", given=full().scrape()[0].decode())
