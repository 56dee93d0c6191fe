"""A step's samples on their way to the host: the copy starts at once, only `PendingSamples.result` waits for it."""

from dataclasses import dataclass

import torch

from kvasir.messages import TokenLogprobs
from kvasir.sampling.logprobs import LogprobTensors
from kvasir.sampling.rows import SampledTokens


@dataclass(frozen=True)
class HostSamples:
    """What the ModelRunnerOutput needs of a step, on the host.

    Attributes:
        token_ids: one for each row.
        logprobs: row -> its entry, for rows that asked.
        errors: row -> why no token could be chosen; its token id means nothing then.
    """

    token_ids: list[int]
    logprobs: dict[int, TokenLogprobs]
    errors: dict[int, str]


NO_TOKEN = (
    "No token could be chosen: every token is masked (allowed_token_ids, bad_words, min_tokens, logit_bias or a "
    "grammar leave none together), or the model's logits hold NaN. Loosen those limits."
)


class PendingSamples:
    """The copy of a step's samples to the host, under way. `result` waits for this copy only."""

    def __init__(self, sampled: SampledTokens):
        self._logprobs, self._errors = sampled.logprobs, sampled.errors
        tensors = [sampled.token_ids, sampled.failed]
        if sampled.logprobs is not None:
            tensors += [sampled.logprobs.token_ids, sampled.logprobs.values, sampled.logprobs.ranks]
        self._landed: torch.cuda.Event | None = None
        if sampled.token_ids.device.type == "cuda":
            tensors = [
                torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True) for t in tensors
            ]
            self._landed = torch.cuda.Event()
            self._landed.record()
        elif sampled.token_ids.device.type == "meta":  # nothing was computed
            tensors = [torch.zeros_like(t, device="cpu") for t in tensors]
        self._tensors = tensors

    def wait(self) -> None:
        """Until the device is done with them."""
        if self._landed is not None:
            self._landed.synchronize()

    def result(self) -> HostSamples:
        self.wait()
        token_ids, failed, *rest = self._tensors
        logprobs: dict[int, TokenLogprobs] = {}
        if self._logprobs is not None:
            host = LogprobTensors(self._logprobs.rows, self._logprobs.num_logprobs, *rest)
            logprobs = dict(zip(host.rows, host.entries(), strict=True))
        errors = dict.fromkeys(failed.numpy().nonzero()[0].tolist(), NO_TOKEN) | self._errors
        return HostSamples(token_ids.tolist(), logprobs, errors)


def to_host(sampled: SampledTokens) -> HostSamples:
    """Everything of a step, now. A loop that runs ahead makes a `PendingSamples` and reads it a step later."""
    return PendingSamples(sampled).result()
