"""Which attention kernels are asked for."""

from dataclasses import dataclass
from typing import Any

from kvasir.config.option import option

BACKENDS = ("triton", "flash_attn", "flashinfer", "cpp", "cpu", "reference")
_OTHER_NAMES = {"auto": None, "triton_attn": "triton"}


def _name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    name = value.lower()
    return _OTHER_NAMES.get(name, name)


@dataclass(frozen=True)
class AttentionConfig:
    """Which attention kernels are asked for.

    None stays None when resolved: the worker's selector picks one and logs why.
    """

    attention_backend: str | None = option(
        None,
        help="Attention kernels. By default (or auto) the worker picks by device, type and model, and logs the reason.",
        choices=BACKENDS,
        convert=_name,
        affects_graph=True,
    )
