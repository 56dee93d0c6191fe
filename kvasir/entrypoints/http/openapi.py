"""/openapi.json, made from the request structs."""

from functools import cache
from typing import Any

import msgspec

from kvasir import __version__
from kvasir.entrypoints.http.schema import REQUESTS

_GETS = {
    "/v1/models": "The models this server has.",
    "/v1/models/{name}": "One model.",
    "/health": "200 while the engine runs and the server is not draining, else 503.",
    "/ping": "The same as /health.",
    "/version": "Kvasir's version.",
    "/metrics": "Prometheus text.",
    "/load": "Answers in the making.",
}
_POSTS = {
    "/v1/chat/completions": "Chat, streamed or whole.",
    "/v1/completions": "Text completion, streamed or whole.",
    "/v1/chat/completions/render": "A chat's prompt, its token ids and sampling parameters; the model is not run.",
    "/v1/completions/render": "The same for the prompts of a text completion.",
    "/tokenize": "Text or messages to token ids.",
    "/detokenize": "Token ids to text.",
}


@cache
def openapi() -> dict[str, Any]:
    refs, components = msgspec.json.schema_components(REQUESTS.values(), ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {path: {"get": _operation(text)} for path, text in _GETS.items()}
    for (path, _), ref in zip(REQUESTS.items(), refs, strict=True):
        body = {"required": True, "content": {"application/json": {"schema": ref}}}
        paths[path] = {"post": {**_operation(_POSTS[path]), "requestBody": body}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Kvasir", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": "OK"}, "default": {"description": "An error."}}}
