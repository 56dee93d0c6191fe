"""Routes that do not generate: models, tokens, health, metrics."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kvasir import __version__
from kvasir.entrypoints.http.body import decode, read_body
from kvasir.entrypoints.http.error_shapes import ErrorShape, OpenAIErrors
from kvasir.entrypoints.http.errors import ClientGone, error_response, log_unexpected
from kvasir.entrypoints.http.guard.caller import current_caller
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.openapi import openapi
from kvasir.entrypoints.http.peers import Peers
from kvasir.entrypoints.http.prompts import RenderedPrompt
from kvasir.entrypoints.http.refusals import check_refusals
from kvasir.entrypoints.http.schema import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    SamplingFields,
    TokenizeRequest,
)
from kvasir.entrypoints.http.serving import Serving
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.errors import NotFoundError, UserError
from kvasir.messages import SamplingParams
from kvasir.observability import Metrics


def json_response(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


class JsonRoute:
    """An ASGI app: body -> struct -> `handle` -> JSON."""

    def __init__(
        self,
        request_cls: type[msgspec.Struct],
        handle: Callable[[Any], Awaitable[Any]],
        settings: ServerSettings,
        errors: type[ErrorShape] = OpenAIErrors,
    ):
        self._errors = errors
        self._cls = request_cls
        self._handle = handle
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(scope, receive, self._settings.max_body_bytes, self._settings.body_timeout_s)
            response = json_response(await self._handle(decode(body, self._cls)))
        except ClientGone:
            return
        except Exception as e:
            log_unexpected(e, scope["kvasir.request_id"])
            response = self._errors.response(e, scope["kvasir.request_id"])
        await response(scope, receive, send)


class TokenRoutes:
    """/tokenize, /detokenize and the render routes: the tokenizer and the template, without the model."""

    def __init__(self, serving: Serving):
        self._serving = serving

    async def tokenize(self, request: TokenizeRequest) -> dict[str, Any]:
        serving = self._serving
        serving.check_model(request.model)
        if (request.prompt is None) == (request.messages is None):
            raise UserError("send either prompt or messages.", param="prompt")
        if request.messages is not None:
            rendered = await serving.renderer.chat(request.messages, request)
        else:
            add_special = request.add_special_tokens is not False
            rendered = await serving.renderer.text(request.prompt or "", add_special_tokens=add_special)
        ids = rendered.token_ids
        body = {"count": len(ids), "max_model_len": serving.limits.max_model_len, "tokens": ids, "token_strs": None}
        if request.return_token_strs:
            body["token_strs"] = serving.renderer.tokenizer.convert_ids_to_tokens(ids)
        return body

    async def detokenize(self, request: DetokenizeRequest) -> dict[str, str]:
        self._serving.check_model(request.model)
        tokenizer = self._serving.renderer.tokenizer
        if request.tokens and max(request.tokens) >= len(tokenizer):
            raise UserError(
                f"tokens must be between 0 and {len(tokenizer) - 1}, got {max(request.tokens)}.", param="tokens"
            )
        return {"prompt": tokenizer.decode(request.tokens, skip_special_tokens=request.skip_special_tokens)}

    async def render_chat(self, request: ChatCompletionRequest) -> dict[str, Any]:
        model = self._checked(request)
        return _rendered(model, request, *await self._serving.render_chat(request))

    async def render_completion(self, request: CompletionRequest) -> list[dict[str, Any]]:
        model = self._checked(request)
        rendered = await self._serving.render_completion(request)
        return [_rendered(model, request, prompt, params) for prompt, params in rendered]

    def _checked(self, request: SamplingFields) -> str:
        model = self._serving.check_model(request.model)
        check_refusals(request)
        return model


def _rendered(model: str, request: SamplingFields, prompt: RenderedPrompt, params: SamplingParams) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": prompt.text,
        "token_ids": prompt.token_ids,
        "sampling_params": params,
        "priority": request.priority or 0,
        "cache_salt": request.cache_salt,
    }


def timeline_response(request: Request, metrics: Sequence[Metrics]) -> Response:
    """Of the request that the path names, wherever it was answered."""
    name, caller = request.path_params["request_id"], current_caller()
    found = [t for each in metrics for t in each.timelines.find(name) if caller.may_see(t.info.tenant)]
    if not found:
        return error_response(NotFoundError(f"nothing is known of request {name!r:.200}; the latest are kept."))
    now = time.time()
    prompts = [timeline.report(now) for timeline in found]
    return json_response({"id": name, "object": "request.timeline", "prompts": prompts})


class SystemRoutes:
    """What operators ask: is it up, what does it serve, how busy is it."""

    def __init__(self, serving: Serving, inflight: Inflight, metrics: Metrics | None, peers: Peers | None = None):
        self._metrics = metrics
        self._peers = peers
        self._serving = serving
        self._inflight = inflight
        self._created = int(time.time())

    async def health(self, request: Request) -> Response:
        """Whether the engine runs; liveness."""
        return await self._state(request, self._serving.engine.check_health)

    async def ready(self, request: Request) -> Response:
        """Whether a new request would be served now; what a balancer asks."""
        return await self._state(request, self._serving.engine.check_ready)

    async def _state(self, request: Request, check: Callable[[], Awaitable[None]]) -> Response:
        try:
            self._inflight.check_open()
            self._serving.check_alive()
            await check()
        except Exception as e:
            log_unexpected(e, request.scope["kvasir.request_id"])
            return error_response(e)
        return Response(status_code=200)

    async def version(self, request: Request) -> Response:
        return json_response({"version": __version__})

    async def load(self, request: Request) -> Response:
        return json_response({"server_load": len(self._inflight)})

    async def timeline(self, request: Request) -> Response:
        """Of the latest requests; a key sees its own, an admin's all."""
        return timeline_response(request, [] if self._metrics is None else [self._metrics])

    async def metrics(self, request: Request) -> Response:
        others = [] if self._peers is None else await self._peers.figures()
        body = b"" if self._metrics is None else self._metrics.render(others)
        return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, request: Request) -> Response:
        return json_response({"object": "list", "data": [self._model(name) for name in self._serving.model_names]})

    async def model(self, request: Request) -> Response:
        try:
            return json_response(self._model(self._serving.check_model(request.path_params["name"])))
        except UserError as e:
            return error_response(e)

    async def openapi(self, request: Request) -> Response:
        return json_response(openapi())

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "kvasir",
            "root": self._serving.model_names[0],
            "parent": None,
            "max_model_len": self._serving.limits.max_model_len,
        }
