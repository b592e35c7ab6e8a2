"""Airflow's menu leads to the monitor on the live server. Airflow loads this folder as its plugins, not as DAGs."""

from airflow.plugins_manager import AirflowPlugin

from pipelines.models.links import monitor_url
from pipelines.settings import load_settings


class ClassyMonitor(AirflowPlugin):
    name = "classy_monitor"
    # Without a route of Airflow's own it opens beside Airflow: the monitor's page lets nobody put it into a frame.
    external_views = [{"name": "Classy monitor", "href": monitor_url(load_settings()), "destination": "nav"}]  # noqa: RUF012
