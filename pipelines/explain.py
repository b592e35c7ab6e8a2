"""Why this model serves: prediction → version → run → snapshot → partitions → feature service → git commit.

    classy explain [GENERATION] [--prediction ID]

What is gone or was changed is said in its place; nothing missing hides what is left.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from monitoring import ledger, trail
from monitoring.stores import Store, open_store
from pipelines.errors import ClassyError
from pipelines.lineage import ancestry, chain, traces
from pipelines.lineage.traces import CHANGED, GONE, THERE, UNKNOWN
from pipelines.models import judgement
from pipelines.recipe import Recipe
from pipelines.settings import Settings

FORMAT = 1


def run(
    settings: Settings,
    recipe: Recipe,
    *,
    generation: int | None = None,
    prediction: str | None = None,
    quick: bool = False,
) -> dict[str, Any]:
    """The chain of a generation as plain data; of the current one where none is named.

    Args:
        recipe: of now, to compare with.
        prediction: a prediction_id; its generation is explained.
        quick: look only whether things are there; else every file is read and its hash compared.

    Raises:
        ClassyError: no such generation or prediction; the message names those there are.
    """
    store = open_store(settings.database_url)
    answer = None if prediction is None else _need_prediction(store, prediction)
    if answer is not None and generation not in (None, answer["generation"]):
        raise ClassyError(f"prediction {prediction} was made by generation {answer['generation']}, not {generation}")
    rows = store.generations()
    row = _need_generation(rows, generation if answer is None else answer["generation"])
    role = None if answer is None else ledger.answered_by(row, answer["run_id"])
    sources = chain.collect(settings, store, _model(store, row, role), kept_as=_kept_as(rows, row, role))
    snapshot, manifest = ancestry.snapshot(sources, quick)
    found = {
        "format": FORMAT,
        **_headline(settings, rows, row),
        "notes": chain.notes(sources),
        "prediction": answer and _answer(answer),
        "predictions": trail.answers_of(store, row["generation"]),
        "version": chain.version(sources),
        "run": chain.run(sources),
        "package": chain.package(sources, quick),
        "snapshot": snapshot,
        "partitions": ancestry.partitions(sources, manifest, quick),
        "features": chain.features(sources, manifest),
        "code": traces.commit(chain.commit(sources), sources.tags.get("classy.git_dirty")),
        "recipe": chain.recipe_of(sources, recipe),
        "judged": chain.judged(sources),
        "approved": chain.approved(store, sources),
        "asked": chain.asked(store, sources, quick),
    }
    found["states"] = _count(found)
    return json.loads(json.dumps(found, default=_plain))


def _model(store: Store, row: dict[str, Any], role: ledger.Role | None) -> dict[str, Any]:
    """The row as if the model that answered were its champion: a canary's answer is explained by the canary."""
    if role is None:
        return row
    judged = judgement.of_run(store, row[f"{role}_run_id"])
    return {
        **row,
        "champion_version": row[f"{role}_version"],
        "champion_run_id": row[f"{role}_run_id"],
        "evidence_uri": judged and judged["evidence_uri"],
        "evidence_hash": judged and judged["evidence_hash"],
    }


def _kept_as(rows: list[dict[str, Any]], row: dict[str, Any], role: ledger.Role | None) -> int | None:
    """The generation under which the chain of this model was kept: a canary beside it is no new champion."""
    if role is not None:
        own = (one["generation"] for one in rows if one["champion_run_id"] == row[f"{role}_run_id"])
        return next(own, -1)
    brought = ledger.brought([one for one in rows if one["generation"] <= row["generation"]])
    return None if brought is None else brought["generation"]


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _need_generation(rows: list[dict[str, Any]], generation: int | None) -> dict[str, Any]:
    if not rows:
        raise ClassyError("nothing to explain: nothing is in production yet; `classy promote` makes the first one")
    if generation is None:
        return rows[-1]
    found = {row["generation"]: row for row in rows}
    if generation not in found:
        known = ", ".join(str(number) for number in sorted(found)[-10:])
        raise ClassyError(f"generation {generation}: there is none; there are {known} (`classy history`)")
    return found[generation]


def _need_prediction(store: Store, prediction: str) -> dict[str, Any]:
    found = trail.prediction(store, prediction)
    if found is not None:
        return found
    about = trail.answers_about(store, prediction)
    if about:
        names = ", ".join(f"{row['prediction_id']} (generation {row['generation']})" for row in about[-5:])
        raise ClassyError(f"{prediction} is a photo, not a prediction; the answers about it are {names}")
    raise ClassyError(
        f"prediction {prediction}: there is none; ids are in the table `predictions` and in data/scores/…, "
        "column prediction_id"
    )


def _headline(settings: Settings, rows: list[dict[str, Any]], row: Mapping[str, Any]) -> dict[str, Any]:
    following = next((one for one in rows if one["generation"] == row["generation"] + 1), None)
    first = next(one for one in rows if one["champion_version"] == row["champion_version"])
    return {
        "generation": row["generation"],
        "kind": row["kind"],
        "since_data_time": row["as_of"],
        "since_wall_clock": row["created_at"],
        "until_data_time": following and following["as_of"],
        "until_wall_clock": following and following["created_at"],
        "by": row["actor"],
        "reason": row["reason"],
        "run_key": row["run_key"],
        "first_promoted_as_generation": first["generation"],
        "previous_version": row["previous_version"],
    }


def _answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("prediction_id", "image_id", "source_id", "captured_at", "predicted_at", "label", "confidence", "arm",
            "channel", "model_version", "run_id", "service_hash", "defaulted")  # fmt: skip
    truth = answer["truth"]
    right = None if truth is None or truth["rejected"] else truth["label"] == answer["label"]
    return {**{name: answer[name] for name in kept}, "truth": truth, "right": right}


def _count(found: Mapping[str, Any]) -> dict[str, int]:
    """How many links of the chain are in which state."""
    states = dict.fromkeys((THERE, CHANGED, GONE, UNKNOWN), 0)
    for part in _links(found):
        states[part["state"]] += 1
    return states


def _links(found: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    yield from (
        found[name] for name in ("version", "run", "package", "snapshot", "features", "code", "recipe", "judged")
    )
    for day in found["partitions"]:
        yield from (day[name] for name in ("shard", "clean", "raw"))
