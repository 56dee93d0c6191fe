"""The routes that generate: ASGI in, an answer out."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from starlette.types import Receive, Scope, Send

from kvasir.entrypoints.http.body import decode, read_body
from kvasir.entrypoints.http.error_shapes import ErrorShape, OpenAIErrors
from kvasir.entrypoints.http.errors import ClientGone, log_unexpected
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.reply import Reply
from kvasir.entrypoints.http.schema import SamplingFields
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.entrypoints.http.source import Source
from kvasir.logger import get_logger
from kvasir.observability import Metrics

logger = get_logger(__name__)

R = TypeVar("R", bound=SamplingFields)


class Sendable(Protocol):
    """What a route sends: an `Answer`, or one that is made elsewhere and only looked at."""

    def source(self) -> Source:
        """The stream."""

    async def whole(self) -> bytes:
        """The JSON."""

    def failure(self, error: BaseException) -> bytes:
        """What ends a stream that failed."""


class GenerateRoute:
    """An ASGI app for one route: `make` turns a checked request into what is sent."""

    def __init__(
        self,
        request_cls: type[R],
        make: Callable[[R, str], Awaitable[Sendable]],
        settings: ServerSettings,
        inflight: Inflight,
        metrics: Metrics | None,
        errors: type[ErrorShape] = OpenAIErrors,
    ):
        self._metrics = metrics
        self._cls = request_cls
        self._make = make
        self._settings = settings
        self._inflight = inflight
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = Reply(scope, send, self._settings.headers_wait_s)
        answer: Sendable | None = None

        async def work() -> None:
            nonlocal answer
            request = decode(body, self._cls)
            if request.request_id is not None and not scope["kvasir.request_id_given"]:
                scope["kvasir.request_id"] = request.request_id
            answer = await self._make(request, scope["kvasir.request_id"])
            self._log(request, scope["kvasir.request_id"])
            if request.stream:
                await reply.stream(answer.source())
            else:
                await reply.json(await answer.whole())

        try:
            self._inflight.check_admits()
            body = await read_body(scope, receive, self._settings.max_body_bytes, self._settings.body_timeout_s)
            await self._inflight.run(receive, work())
        except ClientGone:
            logger.debug("request %s: the client hung up", scope["kvasir.request_id"])
            if self._metrics is not None:
                self._metrics.on_hang_up()
        except Exception as e:
            log_unexpected(e, scope["kvasir.request_id"])
            if reply.started and answer is not None:
                await reply.finish_with(answer.failure(e))
            else:
                await self._errors.response(e, scope["kvasir.request_id"])(scope, receive, send)

    def _log(self, request: SamplingFields, request_id: str) -> None:
        if self._settings.log_requests:
            logger.info(
                "request %s: stream=%s n=%s max_tokens=%s", request_id, request.stream, request.n, request.max_tokens
            )
