"""What the loop behind the server last found and decided, as gauges beside the server's own.

Whoever knows gives the figures (`pipelines/online/loop_figures.py`), off the path of any request; here they have their
names. A state is one gauge for each value it can have, 1 for the one it has.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

Figures = Mapping[str, Mapping[tuple[str, ...], float]]
"""Gauge → values of its labels → its value. What is not known is left out."""


@dataclass(frozen=True, slots=True)
class Gauge:
    name: str
    says: str
    labels: tuple[str, ...] = ()


GAUGES = (
    Gauge("classy_loop_read_timestamp_seconds", "When the loop's figures were last read from the database."),
    Gauge("classy_monitor_day_timestamp_seconds", "The end of the newest day that was watched and decided on."),
    Gauge("classy_monitor_verdict", "1 for the newest day's verdict on drift.", ("verdict",)),
    Gauge("classy_monitor_window_photos", "Photos of the newest day's window."),
    Gauge("classy_monitor_columns_drifted", "Columns of the newest day that drifted."),
    Gauge("classy_monitor_accuracy_ratio", "Accuracy, and the bounds of its 95% interval.", ("of", "bound")),
    Gauge("classy_monitor_loss_ratio", "Reference accuracy less accuracy, as the policy weighed it."),
    Gauge("classy_monitor_loss_sure", "1 while that loss is as large as min_loss, and no chance."),
    Gauge("classy_monitor_label_coverage_ratio", "Share of photos whose label is known."),
    Gauge("classy_decision", "1 for what was last decided.", ("action",)),
    Gauge("classy_decision_timestamp_seconds", "When it was decided."),
    Gauge("classy_incident_open", "1 while the last decision belongs to an incident."),
    Gauge("classy_health", "1 for the state of each fact of the newest day's service.", ("name", "state")),
    Gauge("classy_health_value", "What was measured of it, in its own unit.", ("name",)),
    Gauge("classy_deployment_kind", "1 for what the newest deployment did.", ("kind",)),
    Gauge("classy_deployment_timestamp_seconds", "When it was made."),
)


def families(figures: Figures) -> Iterator[Metric]:
    """The gauges; those that nobody gave a figure for have no sample.

    Raises:
        ValueError: a figure has no gauge.
    """
    if unknown := figures.keys() - {gauge.name for gauge in GAUGES}:
        raise ValueError(f"no gauge for {', '.join(sorted(unknown))}")
    for gauge in GAUGES:
        family = GaugeMetricFamily(gauge.name, gauge.says, labels=gauge.labels)
        for labels, value in figures.get(gauge.name, {}).items():
            family.add_metric(list(labels), value)
        yield family
