"""The text of one answer, and the front's verdict on where it ends."""

from collections.abc import Sequence

from kvasir.messages import EngineCoreRequest
from kvasir.tokenizer import IncrementalDetokenizer, StopChecker, Tokenizer


class AnswerText:
    """Token ids in, released text out, up to the first stop string.

    Attributes:
        text: released and not yet taken away by the owner.
        stop_string: the one that was found.
    """

    __slots__ = ("_checker", "_detokenizer", "_num_tokens", "_unarmed", "stop_string", "text")

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
        self.text = ""
        self.stop_string: str | None = None

    def push(self, token_ids: Sequence[int]) -> int:
        """Takes the text of these tokens; returns how many belong to the answer (all, if no stop string ended it)."""
        if self._checker is None:
            self.text += self._detokenizer.push(token_ids)
            return len(token_ids)
        for kept, token_id in enumerate(token_ids, start=1):  # one by one: the verdict cuts between tokens
            self._num_tokens += 1
            self._show(self._detokenizer.push((token_id,)))
            if self.stop_string is not None:
                return kept
        return len(token_ids)

    def finish(self) -> None:
        """No more tokens: releases what was held back."""
        if self._checker is None:
            self.text += self._detokenizer.finish()
        elif self.stop_string is None:
            self._show(self._detokenizer.finish())
            if self.stop_string is None:
                self.text += self._checker.finish()

    def _show(self, piece: str) -> None:
        if self._checker is not None and piece:
            self.text += self._checker.push(piece, armed=self._num_tokens > self._unarmed)
            self.stop_string = self._checker.matched
