"""What a model says of itself: card.json, the part of a package that people and servers read."""

import json
from pathlib import Path
from typing import Any

from training.models import Classifier

CARD = "card.json"


def make_card(model: Classifier, *, name: str, candidate: str, run_id: str, recipe: dict[str, str],
              snapshot: dict[str, Any], image: dict[str, Any], image_spec_hash: str, temperature: float,
              val: dict[str, float], created_by: str) -> dict[str, Any]:  # fmt: skip
    """The card of one trained model.

    Args:
        recipe: its `name` and `hash`.
        snapshot: the snapshot's manifest, and its `snapshot_uri`.
        image: what the canonical image is; servers build their ImageSpec from it.
        val: metrics on validation rows, calibrated.
    """
    return {
        "name": name,
        "candidate": candidate,
        "kind": model.spec.kind,
        "classes": list(snapshot["classes"]),
        "image": image,
        "image_spec_hash": image_spec_hash,
        "service": snapshot["service"],
        "service_hash": snapshot["service_hash"],
        "context_names": list(snapshot["context_names"]),
        "stats_names": list(snapshot["stats_names"]),
        "context_default": [round(float(value), 6) for value in model.context_mean],
        "temperature": temperature,
        "snapshot_id": snapshot["snapshot_id"],
        "snapshot_uri": snapshot["snapshot_uri"],
        "as_of": snapshot["as_of"],
        "recipe": recipe["name"],
        "recipe_hash": recipe["hash"],
        "run_id": run_id,
        "val": val,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "options": model.spec.options,
        "created_by": created_by,
    }


def write_card(path: Path, card: dict[str, Any]) -> None:
    path.write_text(json.dumps(card, indent=1, sort_keys=True, allow_nan=False) + "\n")
