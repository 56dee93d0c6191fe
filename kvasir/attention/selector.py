"""Which attention backend serves a need: the first of the device's list that does not refuse, or the one asked for."""

from kvasir.attention.backend import AttentionBackend, AttentionNeed
from kvasir.attention.registry import load_backend
from kvasir.errors import ConfigError

PREFERENCE: dict[str, tuple[str, ...]] = {
    "cuda": ("triton", "reference"),
    "cpu": ("cpp", "cpu", "reference"),
}
_ELSEWHERE = ("reference",)


def get_attn_backend(need: AttentionNeed, requested: str | None = None) -> tuple[type[AttentionBackend], list[str]]:
    """The backend and one sentence per candidate that was looked at, the chosen one last.

    `requested` (None or "auto": the device's own order) is taken or refused with a ConfigError, never replaced.
    """
    if requested is not None and requested != "auto":
        backend, refusal = _consider(requested, need)
        if backend is None:
            raise ConfigError(
                f"attention backend {requested!r} cannot serve this model here: {refusal}; "
                "leave the backend at 'auto' or choose another"
            )
        return backend, [f"{requested}: chosen, as requested"]
    reasons: list[str] = []
    for name in PREFERENCE.get(need.device, _ELSEWHERE):
        backend, refusal = _consider(name, need)
        if backend is not None:
            reasons.append(f"{name}: chosen, first on {need.device} that fits")
            return backend, reasons
        reasons.append(f"{name}: refused, {refusal}")
    raise ConfigError(f"no attention backend fits {need}: {'; '.join(reasons)}")


def _consider(name: str, need: AttentionNeed) -> tuple[type[AttentionBackend] | None, str | None]:
    try:
        backend = load_backend(name)
    except ImportError as error:
        return None, f"it cannot be imported ({error})"
    refusal = backend.supports(need)
    return (None, refusal) if refusal else (backend, None)
