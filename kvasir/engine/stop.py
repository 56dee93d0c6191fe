"""The text of one answer, and the front's verdict on where it ends."""

from collections.abc import Sequence

from kvasir.messages import EngineCoreRequest
from kvasir.tokenizer import IncrementalDetokenizer, StopChecker, Tokenizer


class AnswerText:
    """Token ids in, text out, up to the first stop string.

    Without stop strings nobody needs to know the text before it is read. Then tokens wait until that, and become
    text all at once, which for many tokens costs a fraction of what it costs for each.

    Attributes:
        waiting: tokens that are not text yet; None when stop strings must be looked for in each as it comes.
        stop_string: the one that was found.
    """

    __slots__ = ("_checker", "_detokenizer", "_ended", "_num_tokens", "_released", "_unarmed", "stop_string", "waiting")

    def __init__(self, tokenizer: Tokenizer, request: EngineCoreRequest):
        params = request.params
        self._detokenizer = IncrementalDetokenizer(
            tokenizer,
            skip_special_tokens=params.skip_special_tokens,
            spaces_between_special_tokens=params.spaces_between_special_tokens,
            prompt_token_ids=request.prompt_token_ids,
        )
        self._checker = StopChecker(params.stop, params.include_stop_str_in_output) if params.stop else None
        self._unarmed = params.min_tokens  # a stop string inside the first min_tokens tokens does not count
        self._num_tokens = 0
        self._released = ""
        self._ended = False
        self.waiting: list[int] | None = None if self._checker is not None else []
        self.stop_string: str | None = None

    def push(self, token_ids: Sequence[int]) -> int:
        """Takes these tokens; returns how many belong to the answer (all, if no stop string ended it)."""
        if self.waiting is not None:
            self.waiting += token_ids
            return len(token_ids)
        for kept, token_id in enumerate(token_ids, start=1):  # one by one: the verdict cuts between tokens
            self._num_tokens += 1
            self._show(self._detokenizer.push((token_id,)))
            if self.stop_string is not None:
                return kept
        return len(token_ids)

    def finish(self) -> None:
        """No more tokens: what is held back may be released."""
        self._ended = True
        if self._checker is not None and self.stop_string is None:
            self._show(self._detokenizer.finish())
            if self.stop_string is None:
                self._released += self._checker.finish()

    def take(self) -> str:
        """What was released since the last call."""
        waiting = self.waiting
        if waiting is None:
            text, self._released = self._released, ""
            return text
        text = self._detokenizer.push(waiting)
        waiting.clear()
        return text + self._detokenizer.finish() if self._ended else text

    def _show(self, piece: str) -> None:
        if self._checker is not None and piece:
            self._released += self._checker.push(piece, armed=self._num_tokens > self._unarmed)
            self.stop_string = self._checker.matched
