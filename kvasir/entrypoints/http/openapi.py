"""/openapi.json, made from the request structs."""

import re
from functools import cache
from typing import Any

import msgspec

from kvasir import __version__
from kvasir.entrypoints.http.anthropic.schema import CountTokensRequest, MessagesRequest
from kvasir.entrypoints.http.batches.schema import BatchRequest
from kvasir.entrypoints.http.responses.schema import InputTokensRequest, ResponsesRequest
from kvasir.entrypoints.http.schema import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)

_GETS = {
    "/v1/models": "The models this server has.",
    "/v1/models/{name}": "One model.",
    "/v1/responses/{response_id}": "A stored response; with stream=true the events of a background one.",
    "/v1/responses/{response_id}/input_items": "What a stored response was asked.",
    "/v1/files": "Stored files (--batch-dir).",
    "/v1/files/{file_id}": "One of them.",
    "/v1/files/{file_id}/content": "Its bytes.",
    "/v1/batches": "Batches (--batch-dir).",
    "/v1/batches/{batch_id}": "One of them, with its progress.",
    "/health": "200 while the engine runs and the server is not draining, else 503.",
    "/ready": "200 while a new request is served in its turn, else 503.",
    "/ping": "The same as /health.",
    "/version": "Kvasir's version.",
    "/metrics": "Prometheus text.",
    "/load": "Answers in the making.",
    "/v1/engine/state": "The engine at this moment: counts, requests, KV blocks. For the live page.",
    "/v1/requests/{request_id}/timeline": "What happened to a recent request, and when.",
    "/v1/usage": "What this key has used, and its limits.",
}
# What can be posted: its body, and what it is for.
POSTS: dict[str, tuple[type[msgspec.Struct], str]] = {
    "/v1/chat/completions": (ChatCompletionRequest, "Chat, streamed or whole."),
    "/v1/completions": (CompletionRequest, "Text completion, streamed or whole."),
    "/v1/responses": (ResponsesRequest, "OpenAI's Responses API: created, streamed, or started in the background."),
    "/v1/messages": (MessagesRequest, "Anthropic's Messages API, streamed or whole."),
    "/v1/messages/count_tokens": (CountTokensRequest, "How many input tokens a message request has."),
    "/v1/responses/input_tokens": (InputTokensRequest, "How many tokens a response's input has."),
    "/v1/batches": (BatchRequest, "Starts a batch over a stored file."),
    "/v1/chat/completions/render": (ChatCompletionRequest, "A chat's prompt and token ids; the model is not run."),
    "/v1/completions/render": (CompletionRequest, "The same for the prompts of a text completion."),
    "/tokenize": (TokenizeRequest, "Text or messages to token ids."),
    "/detokenize": (DetokenizeRequest, "Token ids to text."),
}


@cache
def openapi() -> dict[str, Any]:
    structs = [struct for struct, _ in POSTS.values()]
    refs, components = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {path: {"get": _operation(text, path)} for path, text in _GETS.items()}
    for (path, (_, text)), ref in zip(POSTS.items(), refs, strict=True):
        body = {"required": True, "content": {"application/json": {"schema": ref}}}
        paths.setdefault(path, {})["post"] = {**_operation(text), "requestBody": body}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Kvasir", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(summary: str, path: str = "") -> dict[str, Any]:
    responses = {"200": {"description": "OK"}, "default": {"description": "An error."}}
    names = re.findall(r"\{(\w+)\}", path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    return {"summary": summary, "responses": responses, **({"parameters": parameters} if parameters else {})}
