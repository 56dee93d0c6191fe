"""Kvasir: an LLM inference and serving engine.

Importing this package is cheap: public names are loaded on first use, so that
`import kvasir` and `kvasir --version` load no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "LLM": "kvasir.entrypoints.llm",
    "AsyncLLM": "kvasir.engine.async_llm",
    "LLMEngine": "kvasir.engine.llm_engine",
    "EngineArgs": "kvasir.config",
    "AsyncEngineArgs": "kvasir.config",
    "SamplingParams": "kvasir.messages",
    "StructuredOutputsParams": "kvasir.messages",
    "GuidedDecodingParams": "kvasir.messages",
    "PoolingParams": "kvasir.messages",
    "RequestOutput": "kvasir.messages",
    "CompletionOutput": "kvasir.messages",
    "Logprob": "kvasir.messages",
    "TextPrompt": "kvasir.messages",
    "TokensPrompt": "kvasir.messages",
    "ModelRegistry": "kvasir.models.registry",
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 (names are resolved lazily below)

if TYPE_CHECKING:
    from kvasir.config import AsyncEngineArgs, EngineArgs
    from kvasir.engine.async_llm import AsyncLLM
    from kvasir.engine.llm_engine import LLMEngine
    from kvasir.entrypoints.llm import LLM
    from kvasir.messages import (
        CompletionOutput,
        GuidedDecodingParams,
        Logprob,
        PoolingParams,
        RequestOutput,
        SamplingParams,
        StructuredOutputsParams,
        TextPrompt,
        TokensPrompt,
    )
    from kvasir.models.registry import ModelRegistry


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'kvasir' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
