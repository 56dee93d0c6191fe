"""Everything that crosses a ring: structs without behaviour.

Ring: all. Knows nothing about: who sends, who obeys, torch.
"""

from kvasir.messages.control import Control, Reply
from kvasir.messages.output import (
    CompletionOutput,
    EngineCoreOutput,
    EventKind,
    Finished,
    FinishReason,
    Logprob,
    RequestEvent,
    RequestMetrics,
    RequestOutput,
    SchedulerStats,
    StepPhases,
)
from kvasir.messages.params import PoolingParams, RequestOutputKind, SamplingParams
from kvasir.messages.prompt import Prompt, TextPrompt, TokensPrompt
from kvasir.messages.request import EngineCoreRequest
from kvasir.messages.state import EngineState, LiveRequest
from kvasir.messages.step import (
    PROTOCOL_VERSION,
    ModelRunnerOutput,
    Ready,
    SchedulerOutput,
    SlotRequest,
    TokenLogprobs,
    TokenMasks,
)
from kvasir.messages.structured import GuidedDecodingParams, StructuredOutputsParams
from kvasir.messages.thinking import ThinkingBudget

__all__ = [
    "PROTOCOL_VERSION",
    "CompletionOutput",
    "Control",
    "EngineCoreOutput",
    "EngineCoreRequest",
    "EngineState",
    "EventKind",
    "FinishReason",
    "Finished",
    "GuidedDecodingParams",
    "LiveRequest",
    "Logprob",
    "ModelRunnerOutput",
    "PoolingParams",
    "Prompt",
    "Ready",
    "Reply",
    "RequestEvent",
    "RequestMetrics",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "SchedulerOutput",
    "SchedulerStats",
    "StepPhases",
    "SlotRequest",
    "StructuredOutputsParams",
    "TextPrompt",
    "ThinkingBudget",
    "TokenLogprobs",
    "TokenMasks",
    "TokensPrompt",
]
