"""Control: one named message for everything that is not a request, so no class grows a method per feature."""

from typing import Any

import msgspec


class Control(msgspec.Struct, array_like=True):
    """`name` is e.g. abort, reset_prefix_cache, sleep, wake, profile, stats, state, shutdown."""

    name: str
    args: dict[str, Any] = {}
    call_id: int = 0  # answered by a Reply of the same id; 0 = no answer wanted


class Reply(msgspec.Struct, array_like=True, omit_defaults=True):
    call_id: int
    value: Any = None
    error: str | None = None
