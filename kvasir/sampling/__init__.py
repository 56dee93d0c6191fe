"""Sampling: from a step's logits to its tokens and log-probabilities, over request state that lives on the device.

Ring: worker.
Input -> output: logits [R, V] and `SampleRows` -> `SampledTokens`; `SlotRequest`s set up the slots they sample from.
Knows nothing about: models, KV cache, the scheduler, text.
"""

from kvasir.sampling.logprobs import LogprobTensors, prompt_logprobs
from kvasir.sampling.processor import LogitsProcessor
from kvasir.sampling.results import HostSamples, PendingSamples, to_host
from kvasir.sampling.rows import SampledTokens, SampleRows
from kvasir.sampling.sampler import Sampler
from kvasir.sampling.state import SamplingState

__all__ = [
    "HostSamples",
    "LogitsProcessor",
    "LogprobTensors",
    "PendingSamples",
    "SampleRows",
    "SampledTokens",
    "Sampler",
    "SamplingState",
    "prompt_logprobs",
    "to_host",
]
