"""Airflow's menu leads to the monitor on the live server. Airflow loads this folder as its plugins, not as DAGs."""

from airflow.plugins_manager import AirflowPlugin

from pipelines.models.links import monitor_url
from pipelines.settings import load_settings

PAGE = monitor_url(load_settings())


class ClassyMonitor(AirflowPlugin):
    name = "classy_monitor"
    # Without a route of Airflow's own it opens beside Airflow: the monitor's page lets nobody put it into a frame. Under
    # Browse, because of an entry of the bar itself Airflow 3.3 makes a button that leads nowhere.
    external_views = [  # noqa: RUF012
        {
            "name": "Classy monitor",
            "href": PAGE,
            "icon": f"{PAGE.removesuffix('monitor')}page/icon.svg",
            "destination": "nav",
            "category": "browse",
        }
    ]
