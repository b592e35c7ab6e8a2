"""The model repository extension: versions that answer beside what production names, under their numbers.

What an operator loads is written down where every worker reads it: each loads it within a second, and again after a
restart. https://github.com/kserve/open-inference-protocol, `model_repository` of Triton's protocol extensions.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from serving.components.base import Component
from serving.problems import Problem
from serving.versions.arms import Arms
from serving.versions.follower import Follower
from serving.versions.shelf import Shelf


class Versions:
    """`serving.server.Repository` over the arms of this process.

    Args:
        components: what is served, by name.
        models: those of them that answer by version.
        resolve: a version's MLflow run; may block. Raises Problem (404) where the registry has none.
        wanted: versions that are loaded by hand: version → run id; may block.
        want: replaces them; may block.
    """

    def __init__(
        self,
        components: Mapping[str, Component],
        arms: Arms,
        shelf: Shelf,
        follower: Follower,
        *,
        resolve: Callable[[str], str],
        wanted: Callable[[], Mapping[str, str]],
        want: Callable[[Mapping[str, str]], None],
        models: Iterable[str] = ("classifier", "classy"),
    ) -> None:
        self._components = components
        self._arms = arms
        self._shelf = shelf
        self._follower = follower
        self._resolve = resolve
        self._wanted = wanted
        self._want = want
        self._models = frozenset(models)
        self._lock = asyncio.Lock()

    def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """Rows of name, version, state and reason; models without versions have an empty one."""
        rows: list[dict[str, str]] = []
        for name, component in self._components.items():
            if name in self._models and self._arms.all():
                rows += [_row(name, version) for version in self._arms.versions()]
            else:
                rows.append(_row(name, "", "UNAVAILABLE" if (why := component.ready()) else "READY", why or ""))
            if name in self._models:
                rows += [_row(name, version, "UNAVAILABLE", why) for version, why in self._follower.unavailable.items()]
                if self._shelf.loading:
                    rows.append(_row(name, "", "LOADING", f"model of run {self._shelf.loading}"))
        return [row for row in rows if row["state"] == "READY"] if ready else rows

    async def load(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Load a version beside what serves; done when it answers. One that answers already is no error.

        Raises:
            Problem: no version is named, there is none such, or it cannot be loaded: what is wrong with it.
        """
        version = self._version(model, parameters, "load")
        async with self._lock:
            if version in self._arms.versions():
                return
            run_id = await asyncio.to_thread(self._resolve, version)
            await self._change({version: run_id})
            await self._follower.look()
            if version in self._follower.unavailable:
                why = self._follower.unavailable[version]
                await self._change({version: None})
                await self._follower.look()
                raise Problem("unprocessable", f"model {model} version {version}: {why}")
            if version not in self._arms.versions():
                why = self._follower.away or self._arms.refused or "it is loaded later"
                raise Problem("unavailable", f"model {model} version {version}: {why}", retry_after=1.0)

    async def unload(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Let a version go that was loaded by hand; done when it answers nobody any more.

        Raises:
            Problem: production needs it, or it is not loaded.
        """
        version = self._version(model, parameters, "unload")
        async with self._lock:
            others = {arm.version for arm in self._lineup_others()}
            roles = {arm.version: arm.name for arm in self._arms.all() if arm.version not in others}
            if version in roles:
                raise Problem(
                    "bad_request",
                    f"model {model} version {version}: is the {roles[version]}, production needs it; change that with "
                    "`classy rollback` or `classy canary drop`",
                )
            if version not in await asyncio.to_thread(self._wanted):
                there = ", ".join(sorted(others)) or "none"
                raise Problem("not_found", f"model {model} version {version}: not loaded by hand; loaded are {there}")
            await self._change({version: None})
            await self._follower.look()

    def _lineup_others(self) -> list[Any]:
        lineup = self._arms.lineup
        return [] if lineup is None else list(lineup.others)

    async def _change(self, changes: Mapping[str, str | None]) -> None:
        def write() -> None:
            now: dict[str, str | None] = {**self._wanted(), **changes}
            self._want({version: run_id for version, run_id in now.items() if run_id is not None})

        await asyncio.to_thread(write)

    def _version(self, model: str, parameters: Mapping[str, Any], verb: str) -> str:
        if model not in self._components:
            there = ", ".join(self._components)
            raise Problem("not_found", f"model {model!r}: not served here; there are {there}")
        if model not in self._models:
            raise Problem("bad_request", f"model {model}: has no versions; {' and '.join(sorted(self._models))} do")
        version = parameters.get("version")
        if not isinstance(version, str | int) or isinstance(version, bool) or not str(version):
            raise Problem("bad_request", f'parameters.version: name the version to {verb}, such as "7"')
        return str(version)


def _row(name: str, version: str, state: str = "READY", reason: str = "") -> dict[str, str]:
    return {"name": name, "version": version, "state": state, "reason": reason}
