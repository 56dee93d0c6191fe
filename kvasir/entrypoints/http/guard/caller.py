"""Who asks, and until when: the one thing of the HTTP front that is ambient.

The guard sets it before a route runs and `DeltaStream` reads it where every answer starts, so a route that is added
later cannot forget to pass it on: its requests are counted, bounded and ended like all others.
"""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from kvasir.engine.terms import RequestTerms
from kvasir.entrypoints.http.guard.account import Account
from kvasir.entrypoints.http.guard.keys import NOBODY


@dataclass(slots=True)
class Caller:
    """One HTTP request's caller.

    Attributes:
        deadline: `time.time()` at which its requests are ended; 0.0: never.
        traceparent: the W3C header, for traces.
    """

    account: Account = field(default_factory=lambda: Account(NOBODY))
    request_id: str = ""
    path: str = ""
    arrived: float = field(default_factory=time.time)
    deadline: float = 0.0
    traceparent: str | None = None

    def terms(self, timeout_s: float | None = None) -> RequestTerms:
        """What the engine heeds; a request's own `timeout` may only bring its end nearer."""
        deadlines = [self.deadline] if self.deadline else []
        if timeout_s is not None:
            deadlines.append(self.arrived + timeout_s)
        key = self.account.key
        return RequestTerms(key.name, key.weight, min(deadlines, default=0.0))

    def priority(self, asked: int) -> int:
        """Lower runs first; nobody gets below the number of their key."""
        return max(asked, self.account.key.priority)

    def cache_salt(self, asked: str | None) -> str | None:
        if not self.account.key.isolate_cache:
            return asked
        return f"{self.account.key.name}:{asked or ''}"

    @property
    def sees_only(self) -> str | None:
        """Whose things are shown to this one; None: everybody's."""
        return None if self.account.key.opens("admin") else self.account.key.name

    def may_see(self, owner: str) -> bool:
        """Whether what belongs to the key named `owner` may be shown to this one."""
        return self.sees_only in (None, owner)


_CURRENT: ContextVar[Caller] = ContextVar("kvasir.caller")


def current_caller() -> Caller:
    """Of the HTTP request that is being answered; outside of one, somebody without a name."""
    return _CURRENT.get(None) or Caller()


def set_caller(caller: Caller) -> None:
    _CURRENT.set(caller)
