"""Addresses of pages, made without asking anybody."""

from datetime import date
from urllib.parse import urlsplit, urlunsplit

from pipelines.settings import Settings

WEB = ("http://", "https://")


def version_url(settings: Settings, version: str) -> str:
    """The page of a model version; without a server, the address that MLflow's own commands take."""
    if settings.mlflow_uri.startswith(WEB):
        return f"{settings.mlflow_uri.rstrip('/')}/#/models/{settings.model_name}/versions/{version}"
    return f"models:/{settings.model_name}/{version}"


def server_url(settings: Settings) -> str:
    """Where this machine's live server is."""
    host = settings.host
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http{'s' if settings.tls_cert else ''}://{here}:{settings.rest_port or 8000}"


def monitor_url(settings: Settings, day: date | None = None) -> str:
    """The monitor's overview, or its page of one day, on the live server."""
    root = f"{(settings.pages_url or server_url(settings)).rstrip('/')}/monitor"
    return root if day is None else f"{root}/{day}"


def for_people(url: str) -> str | None:
    """A page's address without a user and a password in it; None where it is no page's."""
    if not url.startswith(WEB):
        return None
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
