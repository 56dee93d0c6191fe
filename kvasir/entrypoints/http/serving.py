"""OpenAI's semantics over an engine, without HTTP: a checked request in, an `Answer` out. `run-batch` uses it too."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from kvasir import __version__
from kvasir.entrypoints.http.deltas import Delta, DeltaStream, Job
from kvasir.entrypoints.http.params import (
    MAX_FANOUT,
    Limits,
    chat_params,
    completion_params,
    is_echo_only,
)
from kvasir.entrypoints.http.prompts import PromptRenderer, RenderedPrompt
from kvasir.entrypoints.http.refusals import check_refusals
from kvasir.entrypoints.http.render import (
    DONE,
    ChatShape,
    ChunkWriter,
    CompletionShape,
    Shape,
    UsageBody,
    usage_body,
)
from kvasir.entrypoints.http.schema import ChatCompletionRequest, CompletionRequest, SamplingFields
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.entrypoints.http.structure import Structure, Structures
from kvasir.errors import EngineDeadError, NotFoundError, UserError
from kvasir.messages import SamplingParams
from kvasir.observability import Metrics

if TYPE_CHECKING:
    from kvasir.engine.async_llm import AsyncLLM

FINGERPRINT = f"kvasir-{__version__}"


class StreamFormat(msgspec.Struct, frozen=True):
    """What the client asked a stream to carry."""

    include_usage: bool
    continuous_usage: bool


class Answer:
    """One request that passed every check, not started yet. Read it once: as a stream or as a whole."""

    def __init__(self, stream: DeltaStream, shape: Shape, request_id: str, model: str, fmt: StreamFormat):
        self._stream = stream
        self._shape = shape
        self._format = fmt
        self._id = shape.id_prefix + request_id
        self._created = int(time.time())
        self._model = model

    async def lines(self) -> AsyncGenerator[bytes]:
        """Server-sent events; one piece of bytes for each engine output, [DONE] included."""
        writer = ChunkWriter(self._id, self._created, self._model, FINGERPRINT, self._shape)
        fmt, shape = self._format, self._shape
        opened = False

        def usage_now() -> UsageBody | None:
            return usage_body(self._stream.usage) if fmt.continuous_usage else None

        async with aclosing(self._stream.deltas()) as stream:
            async for deltas in stream:
                pieces: list[bytes] = []
                if not opened:
                    opened = True
                    pieces += self._opening(writer, deltas, usage_now())
                for delta in deltas:
                    for chunk in shape.chunks(delta):
                        pieces.append(writer.line([chunk], usage_now(), usage_null=fmt.include_usage, extras={}))
                if pieces:
                    yield b"".join(pieces)
        tail = DONE
        if fmt.include_usage:
            tail = writer.line([], usage_body(self._stream.usage), usage_null=False, extras={}) + DONE
        yield tail

    def _opening(self, writer: ChunkWriter, deltas: list[Delta], usage: UsageBody | None) -> list[bytes]:
        pieces = []
        extras = self._shape.extras(deltas) if deltas else {}
        for index in range(self._stream.num_choices):
            chunk = self._shape.opening(index)
            if chunk is not None:
                pieces.append(writer.line([chunk], usage, usage_null=self._format.include_usage, extras=extras))
                extras = {}
        return pieces

    async def whole(self) -> bytes:
        """The stream, collected."""
        wholes = [Delta(i) for i in range(self._stream.num_choices)]
        seen = [False] * len(wholes)
        async with aclosing(self._stream.deltas()) as stream:
            async for deltas in stream:
                for delta in deltas:
                    if seen[delta.index]:
                        wholes[delta.index].add(delta)
                    else:
                        wholes[delta.index], seen[delta.index] = delta, True
        body: dict[str, Any] = {
            "id": self._id,
            "object": self._shape.object_name,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": FINGERPRINT,
            "choices": [self._shape.choice(whole) for whole in wholes],
            "usage": usage_body(self._stream.usage),
            **self._shape.extras(wholes),
        }
        return msgspec.json.encode(body)


class Serving:
    """Checks requests and makes `Answer`s."""

    def __init__(self, engine: "AsyncLLM", settings: ServerSettings, metrics: Metrics | None = None):
        self.engine = engine
        self._metrics = metrics
        self.settings = settings
        model = engine.config.model
        self.model_names: tuple[str, ...] = tuple(model.served_model_name)
        self.limits = Limits(engine.max_model_len, model.max_logprobs)
        self.renderer = PromptRenderer(engine.tokenizer, settings, engine.max_model_len)
        self._structures = Structures(settings, engine.tokenizer.chat_template if engine.tokenizer else None)

    def check_model(self, name: str | None) -> str:
        """A request without a model gets the one there is."""
        if not name:
            return self.model_names[0]
        if name not in self.model_names:
            raise NotFoundError(
                f"there is no model {name!r:.200} here; this server has {', '.join(self.model_names)}.", param="model"
            )
        return name

    def check_alive(self) -> None:
        if not self.engine.is_alive:
            raise EngineDeadError(f"the engine is not running: {self.engine.dead_error or 'it was shut down'}.")

    async def chat(self, request: ChatCompletionRequest, request_id: str) -> Answer:
        model = self._check(request)
        prompt = await self.renderer.chat(request.messages, request)
        params = chat_params(request, len(prompt.token_ids), self.limits, self.engine.default_sampling_params)
        if request.skip_special_tokens is None and self._structures.keeps_special_tokens(request):
            params.skip_special_tokens = False
        job = self._job(request, request_id, 0, prompt, params)
        structure = self._structures.of(request, prompt.text, params.n)
        shape = ChatShape(self.settings.response_role, bool(request.return_token_ids))
        return self._answer([job], params.n, shape, request, request_id, model, structure)

    async def completion(self, request: CompletionRequest, request_id: str) -> Answer:
        model = self._check(request)
        prompts = await self.renderer.completion(request.prompt, request)
        defaults = self.engine.default_sampling_params
        jobs = []
        for i, prompt in enumerate(prompts):
            params = completion_params(request, len(prompt.token_ids), self.limits, defaults)
            job = self._job(request, request_id, i, prompt, params)
            job.echo = bool(request.echo)
            job.drop_output = is_echo_only(request)
            if job.echo and job.prompt_text is None:
                job.prompt_text = self.renderer.tokenizer.decode(prompt.token_ids, skip_special_tokens=False)
            jobs.append(job)
        n = jobs[0].params.n
        if len(jobs) * n > MAX_FANOUT:
            raise UserError(
                f"{len(jobs)} prompts x n={n} are {len(jobs) * n} answers; the bound is {MAX_FANOUT}.", param="n"
            )
        return self._answer(jobs, n, CompletionShape(bool(request.return_token_ids)), request, request_id, model)

    def _check(self, request: SamplingFields) -> str:
        model = self.check_model(request.model)
        check_refusals(request)
        self.check_alive()
        return model

    def _job(
        self, request: SamplingFields, request_id: str, i: int, prompt: RenderedPrompt, params: SamplingParams
    ) -> Job:
        return Job(
            # The suffix keeps the engine's ids unique when a client repeats its X-Request-Id.
            request_id=f"{request_id}-{i}-{uuid.uuid4().hex[:8]}",
            prompt_token_ids=prompt.token_ids,
            params=params,
            prompt_text=prompt.text,
            show_prompt_logprobs=request.prompt_logprobs is not None,
            priority=request.priority or 0,
            cache_salt=request.cache_salt,
        )

    def _answer(
        self,
        jobs: list[Job],
        n: int,
        shape: Shape,
        request: SamplingFields,
        request_id: str,
        model: str,
        structure: Structure | None = None,
    ) -> Answer:
        options = request.stream_options
        include = self.settings.force_include_usage or bool(options and options.include_usage)
        continuous = bool(options and options.continuous_usage_stats)
        stream = DeltaStream(self.engine, jobs, n, self._token_text, self._metrics, structure)
        return Answer(stream, shape, request_id, model, StreamFormat(include, include and continuous))

    def _token_text(self, token_id: int, text: str | None) -> tuple[str, bytes]:
        """A token as text and as bytes, which say more where the token is part of a letter."""
        tokenizer = self.renderer.tokenizer
        if text is None:
            text = tokenizer.decode([token_id], skip_special_tokens=False)
        if "\ufffd" in text and tokenizer.pieces.kind != "opaque":
            piece = tokenizer.pieces[token_id]
            raw = bytes([piece]) if isinstance(piece, int) else piece.encode() if isinstance(piece, str) else piece
            return text, raw
        return text, text.encode("utf-8", errors="replace")
