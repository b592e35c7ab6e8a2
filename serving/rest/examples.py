"""The hot routes in OpenAPI's terms, with examples that work as they stand."""

from typing import Any

Document = dict[str, Any]

PROBLEMS: Document = {
    "description": "What is wrong, and what to change",
    "content": {
        "application/json": {
            "example": {
                "error": "input photo: is FP32, must be BYTES",
                "problem": {
                    "reason": "bad_request",
                    "detail": "bad_request",
                    "message": "input photo: is FP32, must be BYTES",
                },
            }
        }
    },
}
ANSWER: Document = {
    "label": "T-Shirt",
    "confidence": 0.91,
    "probabilities": {"Dress": 0.09, "T-Shirt": 0.91},
    "model_version": "7",
    "generation": 12,
    "arm": "champion",
    "cached": False,
    "defaulted": False,
    "prediction_id": "0198d0a4-5a2e-7c1b-9e0f-3f6f7c1b2a10",
    "image_id": "9f86d081884c7d65",
    "timing_ms": {"preprocessor": 1.1, "classifier": 0.9},
}
REQUEST: Document = {
    "id": "42",
    "inputs": [
        {
            "name": "url",
            "shape": [2],
            "datatype": "BYTES",
            "data": ["https://example.org/a.jpg", "https://example.org/b.jpg"],
        },
        {"name": "sender", "shape": [1], "datatype": "BYTES", "data": ["41"]},
    ],
    "outputs": [{"name": "label"}, {"name": "confidence"}, {"name": "error"}],
}
RESPONSE: Document = {
    "model_name": "classy",
    "id": "42",
    "outputs": [
        {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["T-Shirt", ""]},
        {"name": "confidence", "datatype": "FP32", "shape": [2], "data": [0.91, 0.0]},
        {
            "name": "error",
            "datatype": "BYTES",
            "shape": [2],
            "data": ["", '{"reason":"unprocessable","detail":"truncated","message":"the photo is cut off"}'],
        },
    ],
}


def _query(name: str, says: str, example: str) -> Document:
    return {
        "name": name, "in": "query", "required": False, "description": says, "schema": {"type": "string"},
        "example": example,
    }  # fmt: skip


def _path(name: str, example: str) -> Document:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "example": example}


_TIMEOUT: Document = {
    "name": "X-Timeout-Ms", "in": "header", "required": False, "schema": {"type": "number"},
    "description": "Milliseconds after which nobody waits for the answer; then 504", "example": 2000,
}  # fmt: skip
_PREDICT: Document = {
    "tags": ["Photos"],
    "summary": "Classify a photo: its bytes as the body, or ?url=",
    "description": "`curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' 'HOST/predict?sender=41'`",
    "parameters": [
        _query("url", "Address of the photo, instead of a body", "https://example.org/photo.jpg"),
        _query("sender", "Who sent it", "41"),
        _query("image_id", "Your name of the photo, by which you tell its label later", "order-17-front"),
        _query("captured_at", "ISO 8601; default: now", "2026-03-01T12:00:00+00:00"),
        _query("arm", "Which arm must answer, by name", "champion"),
        _query("version", "Which version of the model must answer", "7"),
        _TIMEOUT,
    ],
    "requestBody": {
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/jpeg", "image/png", "image/gif", "image/webp", "image/bmp", "application/octet-stream")
        }
    },
    "responses": {"200": {"description": "Its class", "content": {"application/json": {"example": ANSWER}}}},
}


def _infer(*parameters: Document) -> Document:
    return {
        "tags": ["Open Inference Protocol v2"],
        "summary": "Tensors in, tensors out: many photos at once",
        "description": "JSON, or JSON with raw tensors behind it (`Inference-Header-Content-Length`). Among several "
        "photos each has its own `error`; a request of one photo fails as its photo does.",
        "parameters": [*parameters, _TIMEOUT],
        "requestBody": {"content": {"application/json": {"example": REQUEST}}},
        "responses": {"200": {"description": "Outputs", "content": {"application/json": {"example": RESPONSE}}}},
    }


EXAMPLES: Document = {
    "/predict": {"post": _PREDICT},
    "/v2/models/{model}/infer": {"post": _infer(_path("model", "classy"))},
    "/v2/models/{model}/versions/{version}/infer": {"post": _infer(_path("model", "classy"), _path("version", "7"))},
}
"""Path → its operations."""
