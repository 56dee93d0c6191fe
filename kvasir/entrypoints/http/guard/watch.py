"""Charges the caller while answers are made."""

from kvasir.entrypoints.http.guard.account import Counts
from kvasir.entrypoints.http.guard.caller import Caller
from kvasir.messages import RequestOutput

_CHARGE_EVERY = 32
"""Tokens between two entries in the account: an entry a token would cost more than the token's own way out."""


class AccountWatch:
    """Charges one prompt and its answers to the caller."""

    __slots__ = ("_account", "_started", "_tokens")
    hears_outputs = True

    def __init__(self, caller: Caller):
        self._account = caller.account
        self._started = False
        self._tokens = 0

    def on_output(self, output: RequestOutput, n: int) -> None:
        if not self._started:
            self._started = True
            prompt = len(output.prompt_token_ids)
            self._account.charge(Counts(prompt_tokens=prompt, cached_tokens=output.num_cached_tokens))
        for answer in output.outputs:
            self._tokens += len(answer.token_ids)
        if self._tokens >= _CHARGE_EVERY:
            self._charge()

    def on_closed(self, reason: str) -> None:
        self._charge()

    def _charge(self) -> None:
        if self._tokens:
            self._account.charge(Counts(completion_tokens=self._tokens))
            self._tokens = 0
