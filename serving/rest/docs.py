"""The OpenAPI page. It needs no internet: one small page of our own draws /openapi.json."""

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Response

from serving.rest.examples import EXAMPLES, PROBLEMS, Document

ABOUT = (
    "Photos in, classes out: a plain way in (`POST /predict`) and the Open Inference Protocol v2, also over gRPC. "
    "Send an API key as `Authorization: Bearer classy_…` or `X-API-Key`. Errors are "
    '`{"error": message, "problem": {"reason", "detail", "message"}}`.'
)
_SAFE = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
}


def router() -> APIRouter:
    routes = APIRouter()

    @routes.get("/docs", include_in_schema=False)
    async def page() -> Response:
        text = files("serving.rest").joinpath("docs.html").read_text(encoding="utf-8")
        return Response(text, media_type="text/html", headers=_SAFE)

    return routes


def add_hot_routes(app: FastAPI) -> None:
    """Describe the routes that FastAPI does not serve in the document that it makes of the others."""
    made = app.openapi

    def openapi() -> Document:
        document: dict[str, Any] = made()
        document["paths"] = {**EXAMPLES, **document["paths"]}
        shared = document.setdefault("components", {})
        shared["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                operation["responses"].setdefault("default", PROBLEMS)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
