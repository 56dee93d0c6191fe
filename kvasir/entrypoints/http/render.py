"""Deltas -> OpenAI JSON: how usage, finish reasons, logprobs and messages are written."""

from typing import Any, Protocol

from msgspec import UNSET, Struct, UnsetType

from kvasir.entrypoints.http.deltas import MIN_LOGPROB, CallDelta, Delta, TokenInfo, Usage
from kvasir.messages import Logprob

PromptLogprobs = list[dict[str, dict[str, Any]] | None]


class PromptTokensDetails(Struct, gc=False):
    cached_tokens: int


class UsageBody(Struct, gc=False):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ChatTop(Struct, gc=False):
    token: str
    logprob: float | None
    bytes: list[int]


class ChatToken(ChatTop, gc=False):
    top_logprobs: list[ChatTop]


class ChatLogprobs(Struct, gc=False):
    content: list[ChatToken]
    refusal: None = None


class FunctionPiece(Struct, gc=False):
    name: str | UnsetType
    arguments: str


class CallPiece(Struct, gc=False):
    """A fragment of a call; the first one says whose it is."""

    index: int
    id: str | UnsetType
    type: str | UnsetType
    function: FunctionPiece


class FunctionBody(Struct):
    name: str
    arguments: str


class CallBody(Struct):
    id: str
    type: str
    function: FunctionBody


class ChatDelta(Struct, gc=False):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallPiece] | UnsetType = UNSET


class ChatMessageOut(Struct):
    """Reasoning is said under both of the names that clients look for."""

    role: str
    content: str | None
    refusal: None = None
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallBody] | UnsetType = UNSET


class ChatChunkChoice(Struct, gc=False):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatChoice(Struct):
    index: int
    message: ChatMessageOut
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | UnsetType = UNSET


class CompletionLogprobs(Struct, gc=False):
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float | None] | None]


class CompletionChoice(Struct, gc=False):
    """The same for chunks and whole answers."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


def usage_body(usage: Usage) -> UsageBody:
    return UsageBody(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        PromptTokensDetails(usage.cached_tokens),
    )


class Shape(Protocol):
    """How one route writes its answers."""

    object_name: str
    chunk_object_name: str
    id_prefix: str
    says_text_only: bool  # the chunk of a plain delta holds nothing of it but its text

    def opening(self, index: int) -> Any | None:
        """The first chunk of a choice, where the format has one."""

    def chunks(self, delta: Delta) -> list[Any]:
        """The choices of the stream chunks that say it; none when there is nothing to say."""

    def choice(self, whole: Delta) -> Any:
        """The choice of a whole answer."""

    def extras(self, wholes: list[Delta]) -> dict[str, Any]:
        """Top-level fields of an answer (or of a stream's first chunk) beyond the usual ones."""


class ChatShape:
    object_name = "chat.completion"
    chunk_object_name = "chat.completion.chunk"
    id_prefix = "chatcmpl-"

    def __init__(self, role: str, return_token_ids: bool, echo: str = ""):
        self._role = role
        self._return_token_ids = return_token_ids
        self.says_text_only = not return_token_ids
        self._echo = echo

    def opening(self, index: int) -> ChatChunkChoice:
        return ChatChunkChoice(index, ChatDelta(role=self._role, content=self._echo))

    def chunks(self, delta: Delta) -> list[ChatChunkChoice]:
        """Reasoning, content and calls in chunks of their own, since many clients look at one of them in each."""
        finished = delta.finish_reason is not None
        said: list[ChatDelta] = []
        if delta.reasoning:
            said.append(ChatDelta(reasoning=delta.reasoning, reasoning_content=delta.reasoning))
        if delta.text:
            said.append(ChatDelta(content=delta.text))
        if delta.calls:
            said.append(ChatDelta(tool_calls=[_call_piece(call) for call in delta.calls]))
        if not said:
            if not (finished or delta.logprobs or (self._return_token_ids and delta.token_ids)):
                return []
            said.append(ChatDelta() if finished else ChatDelta(content=""))
        chunks = [ChatChunkChoice(delta.index, piece) for piece in said]
        chunks[0].logprobs = _chat_logprobs(delta)
        if self._return_token_ids:
            chunks[0].token_ids = delta.token_ids
        if finished:
            chunks[-1].finish_reason, chunks[-1].stop_reason = delta.finish_reason, delta.stop_reason
        return chunks

    def choice(self, whole: Delta) -> ChatChoice:
        return ChatChoice(
            whole.index,
            _message(self._role, self._echo + whole.text, whole),
            _chat_logprobs(whole),
            whole.finish_reason,
            whole.stop_reason,
            whole.token_ids if self._return_token_ids else UNSET,
        )

    def extras(self, wholes: list[Delta]) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        if self._return_token_ids:
            extras["prompt_token_ids"] = wholes[0].prompt_token_ids
        if wholes[0].prompt_logprobs is not None:
            extras["prompt_logprobs"] = _prompt_logprobs(wholes[0].prompt_logprobs)
        return extras


class CompletionShape:
    object_name = "text_completion"
    chunk_object_name = "text_completion"
    id_prefix = "cmpl-"

    def __init__(self, return_token_ids: bool):
        self._return_token_ids = return_token_ids
        self.says_text_only = not return_token_ids

    def opening(self, index: int) -> None:
        return None

    def chunks(self, delta: Delta) -> list[CompletionChoice]:
        if not (delta.text or delta.finish_reason or delta.logprobs or (self._return_token_ids and delta.token_ids)):
            return []
        return [self.choice(delta)]

    def choice(self, whole: Delta) -> CompletionChoice:
        ids = self._return_token_ids
        return CompletionChoice(
            whole.index,
            whole.text,
            _completion_logprobs(whole),
            whole.finish_reason,
            whole.stop_reason if whole.finish_reason is not None else UNSET,
            whole.token_ids if ids else UNSET,
            whole.prompt_token_ids if ids and whole.prompt_token_ids is not None else UNSET,
            _prompt_logprobs(whole.prompt_logprobs) if whole.prompt_logprobs is not None else UNSET,
        )

    def extras(self, wholes: list[Delta]) -> dict[str, Any]:
        return {}


def _message(role: str, text: str, whole: Delta) -> ChatMessageOut:
    message = ChatMessageOut(role, text)
    if not text and (whole.calls or whole.reasoning):
        message.content = None
    if whole.reasoning:
        message.reasoning = message.reasoning_content = whole.reasoning
    if whole.calls:
        message.tool_calls = [
            CallBody(c.id or "", "function", FunctionBody(c.name or "", c.arguments)) for c in whole.calls
        ]
    return message


def _call_piece(call: CallDelta) -> CallPiece:
    first = call.id is not None
    return CallPiece(
        call.index,
        call.id if call.id is not None else UNSET,
        "function" if first else UNSET,
        FunctionPiece(call.name if call.name is not None else UNSET, call.arguments),
    )


def _chat_logprobs(delta: Delta) -> ChatLogprobs | None:
    if delta.logprobs is None:
        return None
    return ChatLogprobs([ChatToken(*_named(info), [ChatTop(*_named(t)) for t in info.top]) for info in delta.logprobs])


def _named(info: TokenInfo) -> tuple[str, float | None, list[int]]:
    return info.token, info.logprob, list(info.raw)


def _completion_logprobs(delta: Delta) -> CompletionLogprobs | None:
    if delta.logprobs is None:
        return None
    body = CompletionLogprobs([], [], [], [])
    offset = delta.offset
    for info in delta.logprobs:
        body.text_offset.append(offset)
        body.token_logprobs.append(info.logprob)
        body.tokens.append(info.token)
        # The first token of an echoed prompt has no logprobs; every other entry names at least the token itself.
        top: dict[str, float | None] | None = None
        if info.logprob is not None:
            top = {info.token: info.logprob}
            top.update((t.token, t.logprob) for t in info.top)
        body.top_logprobs.append(top)
        offset += len(info.token)
    return body


def _prompt_logprobs(entries: list[dict[int, Logprob] | None]) -> PromptLogprobs:
    return [
        None
        if entry is None
        else {
            str(token_id): {
                "logprob": max(lp.logprob, MIN_LOGPROB),
                "rank": lp.rank,
                "decoded_token": lp.decoded_token,
            }
            for token_id, lp in entry.items()
        }
        for entry in entries
    ]
