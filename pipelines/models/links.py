"""Addresses of pages, made without asking anybody."""

from pipelines.settings import Settings


def version_url(settings: Settings, version: str) -> str:
    """The page of a model version; without a server, the address that MLflow's own commands take."""
    if settings.mlflow_uri.startswith(("http://", "https://")):
        return f"{settings.mlflow_uri.rstrip('/')}/#/models/{settings.model_name}/versions/{version}"
    return f"models:/{settings.model_name}/{version}"
