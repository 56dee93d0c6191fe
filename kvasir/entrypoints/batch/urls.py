"""What a line may ask: the routes of the server that make sense without somebody who waits."""

from collections.abc import Awaitable, Callable
from typing import Any

from kvasir.entrypoints.http.generate import Sendable
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.pooling import POOLING_PATHS, pooling_error
from kvasir.entrypoints.http.responses.schema import ResponsesRequest
from kvasir.entrypoints.http.responses.service import Responses
from kvasir.entrypoints.http.responses.store import ResponseStore
from kvasir.entrypoints.http.schema import ChatCompletionRequest, CompletionRequest, SamplingFields
from kvasir.entrypoints.http.serving import Serving
from kvasir.errors import UserError

Make = Callable[[Any, str], Awaitable[Sendable]]

URLS: dict[str, type[SamplingFields]] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
}


def url_error(url: str, model: str | None) -> UserError:
    """Why `url`, which is not in URLS, cannot be asked in a batch. `model` is the one it names."""
    if url in POOLING_PATHS:
        return pooling_error(url, model or "this server's model")
    return UserError(f"{url:.200} is not available in a batch; use one of {', '.join(URLS)}.", param="url")


def make_of(url: str, serving: Serving) -> Make:
    """What answers `url`. Responses of a batch are not stored: their lines are what is kept."""
    if url == "/v1/responses":
        return Responses(serving, ResponseStore(0, 0.0), Inflight()).create
    return serving.chat if url == "/v1/chat/completions" else serving.completion
