"""Name -> attention backend, imported only when asked for."""

import importlib

from kvasir.attention.backend import AttentionBackend
from kvasir.errors import ConfigError

_BACKENDS: dict[str, str] = {
    "cpp": "kvasir.attention.cpp:CppBackend",
    "cpu": "kvasir.attention.cpu:CpuBackend",
    "triton": "kvasir.attention.triton:TritonBackend",
    "flash_attn": "kvasir.attention.flash_attn:FlashAttnBackend",
    "flashinfer": "kvasir.attention.flashinfer:FlashInferBackend",
    "reference": "kvasir.attention.reference:ReferenceBackend",
}


def backend_names() -> list[str]:
    return sorted(_BACKENDS)


def register_backend(name: str, target: str) -> None:
    """Adds a backend from outside: target is "module:Class"; a name that is taken is an error."""
    if name in _BACKENDS:
        raise ConfigError(f"attention backend {name!r} is registered already as {_BACKENDS[name]!r}")
    _BACKENDS[name] = target


def load_backend(name: str) -> type[AttentionBackend]:
    """The backend class; ImportError when its libraries are not installed."""
    if name not in _BACKENDS:
        raise ConfigError(f"unknown attention backend {name!r}; choose one of {', '.join(backend_names())}")
    module, _, attribute = _BACKENDS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
