"""The codec between processes: msgpack frames with a one-byte kind in front, never objects that could run code."""

from typing import Any

import msgspec

from kvasir.messages.control import Control, Reply
from kvasir.messages.output import EngineCoreOutput
from kvasir.messages.request import EngineCoreRequest
from kvasir.messages.step import ModelRunnerOutput, Ready, SchedulerOutput, TokenMasks

_KINDS: tuple[type, ...] = (
    EngineCoreRequest,
    SchedulerOutput,
    ModelRunnerOutput,
    EngineCoreOutput,
    Control,
    Reply,
    Ready,
    TokenMasks,
)
_KIND_OF = {cls: i for i, cls in enumerate(_KINDS)}
_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: tuple[msgspec.msgpack.Decoder[Any], ...] = tuple(msgspec.msgpack.Decoder(cls) for cls in _KINDS)


def encode(message: Any) -> bytes:
    buffer = bytearray((_KIND_OF[type(message)],))
    _ENCODER.encode_into(message, buffer, 1)
    return bytes(buffer)


def decode(frame: bytes | memoryview) -> Any:
    """Raises msgspec.ValidationError or ValueError when the frame is not one of ours."""
    kind = frame[0]
    if kind >= len(_KINDS):
        raise ValueError(f"unknown message kind {kind}")
    return _DECODERS[kind].decode(memoryview(frame)[1:])


def copy(message: Any) -> Any:
    """A deep copy by way of the codec: what an in-process run uses to prove that nothing is shared."""
    return decode(encode(message))
