"""Sampler: logits and rows -> tokens. The order of work, on one screen:

raw log-probabilities -> processors (allowed ids, bias, bad words, min tokens, penalties, thinking, plugins) ->
temperature -> min-p, top-k, top-p as one cut-off for each row -> argmax of logits / temperature + noise (greedy rows:
no noise).
"""

from dataclasses import replace
from typing import Literal

import torch

from kvasir.errors import ConfigError
from kvasir.ops.sample import cutoffs, greedy_tokens, sample_tokens
from kvasir.sampling.confine import after_sample, process
from kvasir.sampling.logprobs import LogprobTensors, ranked
from kvasir.sampling.processor import LogitsProcessor
from kvasir.sampling.rows import SampledTokens, SampleRows
from kvasir.sampling.state import SamplingState
from kvasir.sampling.uploads import to_device

LogprobsMode = Literal["raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"]
_MODES = ("raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits")


class Sampler:
    """Everything stays on the device and nothing waits for it; `after_sample` of the processors runs at the end.

    Args:
        state: parameters and processors of the slots; flushed by the caller before each step.
        max_logprobs: most log-probabilities a row gets, -1 = no limit (the front refuses larger wishes before).
        logprobs_mode: what `logprobs` shows: before or after processors, temperature and cut-offs, normalised or not.
    """

    def __init__(self, state: SamplingState, max_logprobs: int = 20, logprobs_mode: LogprobsMode = "raw_logprobs"):
        if logprobs_mode not in _MODES:
            raise ConfigError(f"logprobs_mode must be one of {', '.join(_MODES)}, got {logprobs_mode!r}.")
        self.state, self.max_logprobs, self.logprobs_mode = state, max_logprobs, logprobs_mode

    @torch.inference_mode()
    def sample(self, logits: torch.Tensor, rows: SampleRows) -> SampledTokens:
        """logits [R, V] of any float type, never changed -> tokens, failures and log-probabilities of R rows."""
        if not rows.host_slots:
            empty = rows.slots.new_zeros(0)
            return SampledTokens(empty, empty.bool())
        raw = logits
        active, errors = self._active(rows), {}
        if active:
            rows = replace(rows, num_output_tokens=rows.positions - self.state.num_prompt_tokens[rows.slots])
            logits, errors = process(active, logits, rows)
        token_ids, failed, cutoff = self._choose(logits, rows)
        if active:  # a row without any token left goes on with the model's own best one, which nobody will see
            token_ids = torch.where(failed, raw.argmax(dim=-1), token_ids)
        errors |= after_sample(active, rows, token_ids)
        return SampledTokens(token_ids, failed, self._logprobs(raw, logits, cutoff, rows, token_ids), errors)

    @torch.inference_mode()
    def choose(
        self, logits: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor, limited: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The choice alone, by device state alone, so that it can be captured: -> token_ids [R] int64, failed [R] bool.

        Right only while `state.needs_host` is false. `limited`: some slot may have a top-k, top-p or min-p.
        """
        state = self.state
        tables = (state.temperature, state.top_k, state.top_p, state.min_p)
        cutoff = cutoffs(logits, slots, *tables, None) if limited else None
        return sample_tokens(logits, slots, state.temperature, state.seed, positions, cutoff)

    def _active(self, rows: SampleRows) -> list[LogitsProcessor]:
        wanted = [p for p in self.state.processors if p.slots]
        if not wanted:
            return []
        slots = set(rows.host_slots)
        return [p for p in wanted if not slots.isdisjoint(p.slots)]

    def _choose(self, logits: torch.Tensor, rows: SampleRows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        state = self.state
        random_rows = [r for r, slot in enumerate(rows.host_slots) if not state.greedy[slot]]
        if not random_rows:
            return *greedy_tokens(logits), None
        cutoff = self._cutoffs(logits, rows)
        token_ids, failed = sample_tokens(
            logits, rows.slots, state.temperature, state.seed, rows.positions, cutoff, random_rows
        )
        return token_ids, failed, cutoff

    def _cutoffs(self, logits: torch.Tensor, rows: SampleRows) -> torch.Tensor | None:
        """[R] float32: lowest logit that each row may choose, None when no row has a limit."""
        state = self.state
        if not state.limited:
            return None
        limits = [(state.host_top_k[s], state.host_top_p[s], state.host_min_p[s]) for s in rows.host_slots]
        return cutoffs(logits, rows.slots, state.temperature, state.top_k, state.top_p, state.min_p, limits)

    def _logprobs(
        self,
        raw: torch.Tensor,
        processed: torch.Tensor,
        cutoff: torch.Tensor | None,
        rows: SampleRows,
        token_ids: torch.Tensor,
    ) -> LogprobTensors | None:
        if not self.state.with_logprobs:
            return None
        wishes = [self.state.num_logprobs[slot] for slot in rows.host_slots]
        asking = [r for r, k in enumerate(wishes) if k is not None]
        if not asking:
            return None
        limit = self.state.vocab_size
        if self.max_logprobs >= 0:
            limit = min(limit, self.max_logprobs)
        counts = [limit if wishes[r] < 0 else min(wishes[r], limit) for r in asking]
        index = None if len(asking) == len(wishes) else to_device(asking, self.state.device)
        shown = raw if self.logprobs_mode.startswith("raw") else processed
        if index is not None:
            shown, token_ids = shown.index_select(0, index), token_ids[index]
        if self.logprobs_mode.startswith("processed"):
            shown = self._as_sampled(shown, cutoff, rows, index)
        normalise = self.logprobs_mode.endswith("logprobs")
        return LogprobTensors(asking, counts, *ranked(shown, token_ids, max(counts), normalise))

    def _as_sampled(
        self, logits: torch.Tensor, cutoff: torch.Tensor | None, rows: SampleRows, index: torch.Tensor | None
    ) -> torch.Tensor:
        """Logits as the choice saw them: over temperature (greedy rows: as they are), nothing below the cut-off."""
        slots = rows.slots if index is None else rows.slots[index]
        temperature = self.state.temperature[slots][:, None]
        scaled = logits.float() / torch.where(temperature > 0, temperature, 1.0)
        if cutoff is None:
            return scaled
        lowest = cutoff if index is None else cutoff[index]
        return scaled.masked_fill(logits < lowest[:, None], float("-inf"))
