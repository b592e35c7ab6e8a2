"""The links of a generation's chain on the data's side: the snapshot, and each day's shard, clean and raw partition."""

from collections.abc import Mapping
from typing import Any

from pipelines.lineage import traces
from pipelines.lineage.chain import Sources, first
from pipelines.lineage.traces import CHANGED, THERE


def snapshot(sources: Sources, quick: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    named = sources.evidence.get("snapshot", {})
    # What the model was trained on; the judge's snapshot where no record says, which is the same one but for reruns.
    trained_on = first(sources.contender.get("trained_on"), sources.tags.get("classy.snapshot_id"))
    snapshot_id = first(trained_on, sources.card.get("snapshot_id"), named.get("id"), sources.was("snapshot", "id"))
    uri = first(
        named.get("uri") if named.get("id") == snapshot_id else None,
        sources.tags.get("classy.snapshot_uri"),
        sources.card.get("snapshot_uri"),
        sources.was("snapshot", "uri"),
    )
    seen, manifest = traces.partition(uri, sources.was("snapshot", "hash"), quick=quick)
    facts: dict[str, Any] = {
        "id": snapshot_id,
        "as_of": first(named.get("as_of"), manifest.get("as_of"), sources.was("snapshot", "as_of")),
        "counts": first(named.get("counts"), manifest.get("counts"), sources.was("snapshot", "counts")),
        "drift_from": first(named.get("drift_from"), manifest.get("drift_from")),
        "test_rows_sha256": named.get("test_rows_sha256"),
        "golden": sources.evidence.get("golden"),
        "window_days": manifest.get("window_days"),
        "judged_on_another": None if named.get("id") in (None, snapshot_id) else named["id"],
    }
    if seen["state"] == THERE and manifest.get("snapshot_id") != snapshot_id:
        seen = {**seen, "state": CHANGED, "says": f"it calls itself {manifest.get('snapshot_id')}"}
    elif seen["state"] == THERE and seen["recorded_hash"] is None:
        # Its name is the hash of its content, so it is not as unsure as another partition.
        seen = {**seen, "says": None if quick else "each file is as its manifest says"}
    return {**seen, **facts}, manifest


def partitions(sources: Sources, manifest: Mapping[str, Any], quick: bool) -> list[dict[str, Any]]:
    was = {part["shard"]["uri"]: part for part in sources.kept.get("partitions", [])}
    named = first(manifest.get("partitions"), sources.evidence.get("snapshot", {}).get("partitions"), list(was))
    recorded = manifest.get("shard_hashes", {})
    return [_lineage_of(uri, recorded.get(uri), was.get(uri, {}), quick) for uri in traces.progress(list(named), quick)]


def _lineage_of(uri: str, recorded: str | None, was: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """A shard, the clean partition it was made from, and the raw one before that."""

    def known(part: str, name: str) -> Any:
        return was.get(part, {}).get(name)

    shard, made = traces.partition(uri, first(recorded, known("shard", "hash")), quick=quick)
    # What was made again since names another clean partition than the one that was used.
    same = shard["state"] == THERE
    clean_uri = first(known("clean", "uri"), made.get("clean_uri"))
    clean, checked = traces.partition(
        clean_uri, first(known("clean", "hash"), made.get("clean_hash") if same else None), quick=quick
    )
    raw_uri = first(known("raw", "uri"), checked.get("raw_uri"))
    raw, came = traces.partition(raw_uri, first(known("raw", "hash"), checked.get("raw_hash")), quick=quick)
    day = first(made.get("day"), checked.get("day"), came.get("day"), was.get("day"))
    return {
        "day": first(day, uri.rstrip("/").rsplit("=", 1)[-1]),
        "shard": {**shard, "rows": first(made.get("count"), known("shard", "rows"))},
        "clean": {
            **clean,
            "rows": first(checked.get("kept"), known("clean", "rows")),
            "quarantined": first(checked.get("quarantined"), known("clean", "quarantined")),
        },
        "raw": {
            **raw,
            "rows": first(came.get("records"), known("raw", "rows")),
            "labels": first(came.get("labels"), known("raw", "labels")),
        },
    }
