"""Versions that an operator loads beside what production names: written down where every worker reads them."""

import json
from collections.abc import Mapping

from pipelines.errors import ClassyError
from pipelines.online.deployments import replace_file
from pipelines.settings import Settings
from serving.components.base import Component
from serving.problems import Problem
from serving.versions.arms import Arms
from serving.versions.follower import Follower
from serving.versions.repository import Versions
from serving.versions.shelf import Shelf


class ByHand:
    """The file HOME/serving/versions.json: version → MLflow run."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.home / "serving" / "versions.json"
        self._settings = settings

    def wanted(self) -> dict[str, str]:
        """What is to be loaded; nothing where the file is not there or not readable as such."""
        try:
            found = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return {str(version): str(run_id) for version, run_id in found.items()} if isinstance(found, dict) else {}

    def want(self, versions: Mapping[str, str]) -> None:
        """Replace it. Workers follow within a second."""
        replace_file(self.path, json.dumps(dict(versions), indent=1))

    def resolve(self, version: str) -> str:
        """A version's MLflow run.

        Raises:
            Problem: the registry has no such version, or does not answer.
        """
        from mlflow.exceptions import MlflowException  # seconds to import, and few servers are asked

        from pipelines.models import registry, tracking

        try:
            client = tracking.connect(self._settings)
        except ClassyError as error:
            raise Problem("unavailable", str(error)) from error
        try:
            return str(registry.need_version(client, self._settings, version).run_id)
        except ClassyError as error:
            raise Problem("not_found", str(error)) from error
        except MlflowException as error:
            raise Problem("bad_request", f"version {version!r}: {error.message[:200]}") from error


def repository(
    settings: Settings, components: Mapping[str, Component], arms: Arms, shelf: Shelf, follower: Follower
) -> Versions:
    """`serving.server.Repository` of one process; its follower is made with `ByHand(settings).wanted`."""
    hand = ByHand(settings)
    return Versions(components, arms, shelf, follower, resolve=hand.resolve, wanted=hand.wanted, want=hand.want)
