"""A harness that drives state and sampler as a worker would, and an independent, slow, per-row account of what they
must do: numpy and Python integers, written from the published rules; it calls nothing of the package."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from kvasir.messages import SamplingParams, SlotRequest
from kvasir.sampling import SampledTokens, Sampler, SampleRows, SamplingState, to_host

U32 = 0xFFFFFFFF


def make_request(slot: int, prompt: list[int], outputs: list[int] = (), seed: int = 0, **fields) -> SlotRequest:
    own = {k: fields.pop(k) for k in ("eos_token_ids", "stop_token_ids", "bad_words_token_ids") if k in fields}
    params = SamplingParams(max_tokens=None, **fields)
    return SlotRequest(f"r{slot}", slot, [*prompt, *outputs], len(prompt), 0, [], params, seed, **own)


class Harness:
    """Slots with their token histories; `step` samples one token for each named slot and appends it."""

    def __init__(self, vocab: int, max_num_seqs: int = 8, **sampler_options):
        self.state = SamplingState(max_num_seqs, vocab, "cpu")
        self.sampler = Sampler(self.state, **sampler_options)
        self.tokens: dict[int, list[int]] = {}

    def add(self, request: SlotRequest) -> None:
        self.state.add(request.slot, request)
        self.tokens[request.slot] = list(request.token_ids)

    def remove(self, slot: int) -> None:
        self.state.remove(slot)
        del self.tokens[slot]

    def rows(self, slots: list[int]) -> SampleRows:
        positions = [len(self.tokens[s]) for s in slots]
        return SampleRows(torch.tensor(slots), list(slots), torch.tensor(positions))

    def sample(self, logits: torch.Tensor, slots: list[int]) -> SampledTokens:
        self.state.flush()
        return self.sampler.sample(logits, self.rows(slots))

    def step(self, logits: torch.Tensor, slots: list[int]):
        host = to_host(self.sample(logits, slots))
        for slot, token in zip(slots, host.token_ids, strict=True):
            self.tokens[slot].append(token)
        return host


def _mix(x: int, key: int = 0) -> int:
    x ^= x >> 17
    x = x * 0xED5AD4BB & U32
    x ^= x >> 11
    x = x + key & U32
    x = x * 0xAC4C1B51 & U32
    x ^= x >> 15
    x = x * 0x31848BAB & U32
    return x ^ x >> 14


def naive_words(seed: int, position: int, token_ids: range | list[int]) -> list[int]:
    seed &= 2**64 - 1
    low, high = seed & U32, seed >> 32
    lane0 = _mix(_mix(_mix(low + 0x9E3779B9 & U32) ^ high) + position & U32)
    lane1 = _mix(_mix(_mix(high + 0x7F4A7C15 & U32) ^ low) + position & U32)
    return [_mix(t ^ lane0, lane1) for t in token_ids]


def naive_gumbel(seed: int, position: int, vocab: int) -> np.ndarray:
    v = [min(((w >> 1) + 0.5) * 2.0**-31, 1 - 2.0**-24) for w in naive_words(seed, position, range(vocab))]
    return np.array([-math.log(-math.log1p(-x)) for x in v])


@dataclass
class Naive:
    """What one row must give, from its raw logits and its history."""

    request: SlotRequest
    history: list[int]
    outputs: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.outputs = self.history[self.request.num_prompt_tokens :]

    def processed(self, raw: np.ndarray) -> np.ndarray:
        p, logits = self.request.params, raw.astype(np.float64).copy()
        if p.allowed_token_ids:
            for t in range(len(logits)):
                if t not in p.allowed_token_ids:
                    logits[t] = -np.inf
        for t, bias in (p.logit_bias or {}).items():
            logits[t] += bias
        for word in self.request.bad_words_token_ids:
            n = len(word) - 1
            if len(self.outputs) >= n and self.outputs[len(self.outputs) - n :] == word[:-1]:
                logits[word[-1]] = -np.inf
        if len(self.outputs) < p.min_tokens:
            for t in [*self.request.eos_token_ids, *self.request.stop_token_ids, *p.stop_token_ids]:
                logits[t] = -np.inf
        for t in set(self.history):
            logits[t] = logits[t] / p.repetition_penalty if logits[t] > 0 else logits[t] * p.repetition_penalty
        for t in set(self.outputs):
            logits[t] -= p.frequency_penalty * self.outputs.count(t)
            logits[t] -= p.presence_penalty
        return logits

    def kept(self, logits: np.ndarray) -> np.ndarray:
        """The tokens that min-p, top-k and top-p leave, as a mask; equal logits are treated alike."""
        p = self.request.params
        scaled = logits / p.temperature
        with np.errstate(invalid="ignore"):
            prob = np.exp(scaled - scaled.max())
        keep = prob >= p.min_p
        if p.top_k > 0:
            alive = np.where(keep, scaled, -np.inf)
            keep &= np.array([(alive > x).sum() < p.top_k for x in scaled])
        if p.top_p < 1:
            mass = np.where(keep, prob, 0.0)
            mass /= mass.sum()
            keep &= np.array([mass[scaled > x].sum() < p.top_p for x in scaled])
        return keep

    def token(self, raw: np.ndarray) -> int | None:
        logits = self.processed(raw)
        if not np.isfinite(logits).any():
            return None
        p = self.request.params
        if p.greedy or p.top_k == 1:
            return int(logits.argmax())
        noise = naive_gumbel(self.request.seed, len(self.history), len(logits))
        scores = np.where(self.kept(logits), logits / p.temperature + noise, -np.inf)
        return int(scores.argmax())
