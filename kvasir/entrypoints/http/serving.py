"""OpenAI's semantics over an engine, without HTTP: a checked request in, an `Answer` out. `run-batch` uses it too."""

import uuid
from typing import TYPE_CHECKING

import msgspec

from kvasir.entrypoints.http.answer import Answer
from kvasir.entrypoints.http.chunks import ChoicesFormat, StreamFormat
from kvasir.entrypoints.http.deltas import DeltaStream, Job
from kvasir.entrypoints.http.params import (
    MAX_FANOUT,
    Limits,
    chat_params,
    completion_params,
    is_echo_only,
)
from kvasir.entrypoints.http.progress import ProgressBoard, PromptProgress
from kvasir.entrypoints.http.prompts import PromptRenderer, RenderedPrompt, echoed_text
from kvasir.entrypoints.http.refusals import check_refusals
from kvasir.entrypoints.http.render import ChatShape, CompletionShape, Shape
from kvasir.entrypoints.http.schema import ChatCompletionRequest, CompletionRequest, SamplingFields
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.entrypoints.http.structure import Structures
from kvasir.errors import EngineDeadError, NotFoundError, UserError
from kvasir.messages import SamplingParams
from kvasir.observability import Metrics

if TYPE_CHECKING:
    from kvasir.engine.async_llm import AsyncLLM


class Chat(msgspec.Struct):
    """A chat on its way, before anybody has said how its answer is to be written.

    Attributes:
        params: as resolved, so that an answer can say what it was sampled with.
        has_structure: a parser divides the text, so that tokens and pieces of content do not go together.
    """

    stream: DeltaStream
    model: str
    params: SamplingParams
    has_structure: bool


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
        self._progress = ProgressBoard(engine)
        self._structures = Structures(settings, engine.tokenizer)

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
        chat = await self.start_chat(request, request_id)
        echo = echoed_text(request) if request.echo else ""
        shape = ChatShape(self.settings.response_role, bool(request.return_token_ids), echo)
        return self._answer(chat.stream, shape, request, request_id, chat.model)

    async def start_chat(self, request: ChatCompletionRequest, request_id: str, *, lenient: bool = False) -> Chat:
        """The path that all chat APIs share: everything is checked, nothing is started.

        `lenient`: a max_tokens beyond the context is lowered, and a budget that this model's thoughts cannot be held to
        is passed over, where they would be refused.
        """
        model = self._check(request)
        prompt, params = await self.render_chat(request, clip_max_tokens=lenient)
        if request.skip_special_tokens is None and self._structures.keeps_special_tokens(request):
            params.skip_special_tokens = False
        self._structures.constrain(request, prompt.text, params)
        params.thinking = self._structures.thinking(request, prompt.text, lenient)
        job = self._job(request, request_id, 0, prompt, params)
        structure = self._structures.of(request, prompt.text, params.n)
        token_text = self._token_id_text if request.return_tokens_as_token_ids else self._token_text
        stream = DeltaStream(self.engine, [job], params.n, token_text, self._metrics, structure)
        return Chat(stream, model, params, structure is not None)

    async def render_chat(
        self, request: ChatCompletionRequest, clip_max_tokens: bool = False
    ) -> tuple[RenderedPrompt, SamplingParams]:
        prompt = await self.renderer.chat(request.messages, request)
        defaults = self.engine.default_sampling_params
        return prompt, chat_params(request, len(prompt.token_ids), self.limits, defaults, clip_max_tokens)

    async def count_prompt(self, request: ChatCompletionRequest) -> int:
        """Tokens of a chat's prompt, also of one that leaves no room for an answer."""
        self.check_model(request.model)
        check_refusals(request)
        return len((await self.renderer.chat(request.messages, request)).token_ids)

    async def completion(self, request: CompletionRequest, request_id: str) -> Answer:
        model = self._check(request)
        jobs = []
        for i, (prompt, params) in enumerate(await self.render_completion(request)):
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
        token_text = self._token_id_text if request.return_tokens_as_token_ids else self._token_text
        stream = DeltaStream(self.engine, jobs, n, token_text, self._metrics)
        return self._answer(stream, CompletionShape(bool(request.return_token_ids)), request, request_id, model)

    async def render_completion(self, request: CompletionRequest) -> list[tuple[RenderedPrompt, SamplingParams]]:
        defaults = self.engine.default_sampling_params
        prompts = await self.renderer.completion(request.prompt, request)
        return [(p, completion_params(request, len(p.token_ids), self.limits, defaults)) for p in prompts]

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
            timeout_s=request.timeout,
        )

    def _answer(
        self,
        stream: DeltaStream,
        shape: Shape,
        request: ChatCompletionRequest | CompletionRequest,
        request_id: str,
        model: str,
    ) -> Answer:
        options = request.stream_options
        include = self.settings.force_include_usage or bool(options and options.include_usage)
        continuous = bool(options and options.continuous_usage_stats)
        asked = StreamFormat(include, include and continuous)
        fmt = ChoicesFormat(shape, request_id, model, stream.num_choices, stream.usage, asked)
        if not request.return_progress:
            return Answer(stream, fmt)
        return Answer(
            stream, fmt, PromptProgress(self._progress, stream.core_ids, stream.num_prompt_tokens, fmt.progress)
        )

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

    def _token_id_text(self, token_id: int, text: str | None) -> tuple[str, bytes]:
        """For return_tokens_as_token_ids: texts are not unique, ids are."""
        return f"token_id:{token_id}", self._token_text(token_id, text)[1]
