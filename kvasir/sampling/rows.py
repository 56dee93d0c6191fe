"""What goes into a sampling step and what comes out: data only."""

from dataclasses import dataclass, field

import torch

from kvasir.sampling.logprobs import LogprobTensors


@dataclass(frozen=True)
class SampleRows:
    """The rows of a step that sample a token; row r of the logits belongs to `slots[r]`.

    Attributes:
        slots: [R] int64 on the device.
        host_slots: the same on the host, so that choosing a path needs no word from the device.
        positions: [R] int64 on the device, absolute position of the token being sampled (= tokens before it).
        num_output_tokens: [R] int64 on the device, output tokens before it; the Sampler fills it in for processors.
    """

    slots: torch.Tensor
    host_slots: list[int]
    positions: torch.Tensor
    num_output_tokens: torch.Tensor | None = None

    def only(self, row: int) -> "SampleRows":
        """That row as a step of its own."""
        one = slice(row, row + 1)
        counts = None if self.num_output_tokens is None else self.num_output_tokens[one]
        return SampleRows(self.slots[one], self.host_slots[one], self.positions[one], counts)


@dataclass(frozen=True)
class SampledTokens:
    """Everything stays on the device; `results.to_host` or `PendingSamples` bring it over.

    Attributes:
        token_ids: [R] int64, always valid ids, also for failed rows.
        failed: [R] bool, no token could be chosen: all were masked, or the logits held NaN or +inf.
        logprobs: for the rows that asked, None when none did.
        errors: row -> why its request has failed alone; known on the host.
    """

    token_ids: torch.Tensor
    failed: torch.Tensor
    logprobs: LogprobTensors | None = None
    errors: dict[int, str] = field(default_factory=dict)
