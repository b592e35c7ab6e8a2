"""A generation's chain as OpenLineage events, for Marquez, DataHub, OpenMetadata and who else reads them.

    classy explain GENERATION --openlineage        one event a line
    classy explain GENERATION --send               to where OPENLINEAGE_URL or openlineage.yml says

From the same facts as `pipelines.explain`. Run ids are made from what the run did, so that events sent twice are
the same events. https://openlineage.io/docs/spec/object-model
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import RunEvent
from openlineage.client.serde import Serde

from pipelines import explain, files
from pipelines.errors import ClassyError
from pipelines.lineage import chain, openlineage
from pipelines.recipe import Recipe
from pipelines.settings import Settings

EVENTS = "events.jsonl"
log = logging.getLogger(__name__)


def events(settings: Settings, recipe: Recipe, *, generation: int | None = None) -> list[dict[str, Any]]:
    """The events of a generation's chain, oldest step first: what was kept when it was made, or made now.

    Raises:
        ClassyError: there is no such generation.
    """
    found = explain.run(settings, recipe, generation=generation, quick=True)
    kept = _kept(settings, found["generation"])
    return kept if kept is not None else [Serde.to_dict(event) for event in openlineage.events_of(settings, found)]


def _kept(settings: Settings, generation: int) -> list[dict[str, Any]] | None:
    root = chain.lineage_root(settings, generation)
    manifest = files.read_manifest(root)
    if manifest is None or EVENTS not in manifest["files"]:
        return None
    fs, path = fsspec.url_to_fs(files.join(root, EVENTS))
    return [json.loads(line) for line in fs.cat_file(path).decode().splitlines()]


def as_lines(found: Iterable[Mapping[str, Any]]) -> str:
    """NDJSON: an event a line."""
    return "".join(json.dumps(event, sort_keys=True) + "\n" for event in found)


# ------------------------------------------------------------------------------------------------ keeping


def keep(settings: Settings, recipe: Recipe, generation: int) -> str | None:
    """Keep a generation's chain and events beside its evidence; gives their URI. Kept once, it stays.

    What a promotion calls last, so it never fails: what goes wrong is logged, and the promotion stands. The hash of
    every partition is written down here, which is how `explain` can tell a year later that nothing was changed.
    """
    uri = chain.lineage_root(settings, generation)
    try:
        if files.read_manifest(uri) is None:
            _write(settings, recipe, generation, uri)
    except Exception:
        # The generation is in the ledger and serves: whatever is wrong with its record must not say otherwise.
        log.exception(
            "%s: the chain of generation %s could not be kept; promote its run key again to keep it", uri, generation
        )
        return None
    return uri


def _write(settings: Settings, recipe: Recipe, generation: int, uri: str) -> None:
    found = explain.run(settings, recipe, generation=generation, quick=True)
    made = [Serde.to_dict(event) for event in openlineage.events_of(settings, found)]
    with files.new_partition(uri) as draft:
        (draft.folder / chain.CHAIN).write_text(json.dumps(found, indent=1))
        (draft.folder / EVENTS).write_text(as_lines(made))
        draft.meta = {"generation": generation, "format": explain.FORMAT}


# ------------------------------------------------------------------------------------------------ sending


def send(settings: Settings, recipe: Recipe, *, generation: int | None = None) -> dict[str, Any]:
    """Send the events through OpenLineage's own client, configured its own way.

    Raises:
        ClassyError: nothing says where to, or the receiver refuses.
    """
    where = _destination()
    client = OpenLineageClient()
    found = explain.run(settings, recipe, generation=generation, quick=True)
    made = openlineage.events_of(settings, found)
    for number, event in enumerate(made):
        _emit(client, event, f"{where}: event {number + 1} of {len(made)} ({event.job.name})")
    if not client.close(timeout=60):
        raise ClassyError(f"{where}: not all of {len(made)} events were taken within a minute; send them again")
    return {"generation": found["generation"], "events": len(made), "to": where, "transport": client.transport.kind}


def _emit(client: OpenLineageClient, event: RunEvent, which: str) -> None:
    try:
        client.emit(event)
    except Exception as error:  # each transport has errors of its own
        raise ClassyError(
            f"{which} was not taken: {' '.join(str(error).split())[:300]}. Sent again, nothing is counted twice"
        ) from error


def _destination() -> str:
    """What OpenLineage's client will use. Without any of these it would only print."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        raise ClassyError("OPENLINEAGE_DISABLED=true: nothing is sent; unset it to send")
    if url := os.environ.get("OPENLINEAGE_URL"):
        return f"OPENLINEAGE_URL={url}"
    given = os.environ.get("OPENLINEAGE_CONFIG")
    for path in [Path(given)] if given else [Path("openlineage.yml"), Path.home() / ".openlineage" / "openlineage.yml"]:
        if path.is_file():
            return str(path)
    if given:
        raise ClassyError(f"OPENLINEAGE_CONFIG={given}: no such file")
    if any(name.startswith("OPENLINEAGE__TRANSPORT") for name in os.environ):
        return "OPENLINEAGE__TRANSPORT…"
    raise ClassyError(
        "nothing says where OpenLineage events go: set OPENLINEAGE_URL=http://localhost:5000 (Marquez) or write an "
        f"openlineage.yml, here or in ~/.openlineage (https://openlineage.io/docs/client/python); now is "
        f"{datetime.now(UTC):%Y-%m-%d} and nothing was sent"
    )
