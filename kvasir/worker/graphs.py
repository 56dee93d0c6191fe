"""The captured steps of a worker: forward passes of the usual sizes, and the sampling that follows them.

A decode step is two replays: inputs + forward + logits, then choice + append. Between the two there is room for what
needs the host (a grammar's mask, a processor), and a step with such rows samples in the open instead.
"""

import time
from typing import Any

import torch

from kvasir.compilation import CUDAGraphWrapper, GraphPool
from kvasir.logger import get_logger
from kvasir.sampling import SampledTokens, Sampler
from kvasir.worker.forward import DecodeKey, DecodePass, Forward, RaggedPass
from kvasir.worker.states import RequestStates

logger = get_logger(__name__)


class StepGraphs:
    """Graphs of all sizes, captured a few at the start, the others in quiet moments or when they are first needed.

    Keys of the sampling graphs: the decode step's, and whether some slot may have a top-k, top-p or min-p.
    """

    def __init__(
        self, states: RequestStates, sampler: Sampler, decode: DecodePass, ragged: RaggedPass, pool: GraphPool | None
    ):
        self._states = states
        self._sampler = sampler
        self._decode = decode
        self._ragged = ragged
        self._logits: dict[DecodeKey, torch.Tensor] = {}  # where the forward graph leaves them
        self._sampling = CUDAGraphWrapper(self._choose, pool)
        self._ready = False  # before the KV cache has its place, what would be captured is of no use

    @torch.inference_mode()
    def capture_first(self) -> None:
        """The largest of each kind, since later ones fit into their memory, and the smallest, which is used most."""
        started = time.perf_counter()
        self._ready = True
        for keys in (self._mixed_keys(), self._decode_keys()):
            for key in [*keys[-1:], *keys[:1]][: len(keys)]:
                self._capture(key)
        logger.info("captured the first graphs in %.2f s; the others follow", time.perf_counter() - started)

    @torch.inference_mode()
    def capture_next(self) -> bool:
        """One more, small ones first; whether any is left. For moments when no request runs."""
        left = [key for key in self._decode_keys() if key not in self._decode.graphs]
        left += [key for key in self._mixed_keys() if key not in self._ragged.graphs]
        if left:
            self._capture(left[0])
        return len(left) > 1

    def capture_missing(self, forward: Forward) -> None:
        """Captures the shape of a step that had to run in the open for want of its graph."""
        if self._ready and forward.missing is not None:
            with torch.inference_mode():  # which takes longer than to see that nothing is missing
                self._capture(forward.missing)

    def _decode_keys(self) -> list[DecodeKey | int]:
        return [DecodeKey(rows) for rows in self._decode.sizes]

    def _mixed_keys(self) -> list[DecodeKey | int]:
        return list(self._ragged.sizes)

    def _capture(self, key: DecodeKey | int) -> None:
        if not isinstance(key, DecodeKey):
            self._ragged.pad_all()
            _capture(self._ragged.graphs, key)
            return
        self._decode.pad_all()
        held = _capture(self._decode.graphs, key)  # sampling reads the logits: its memory must be elsewhere
        self._logits[key] = self._decode.graphs.outputs(key)[1]
        for limited in (False, True):
            _capture(self._sampling, (key, limited))
        del held

    def may_sample(self, forward: Forward) -> bool:
        """Whether the step's forward pass was a captured one and its rows need nothing but the choice of a token."""
        return forward.graph in self._logits and not self._sampler.state.needs_host

    def sample(self, forward: Forward) -> SampledTokens:
        token_ids, failed = self._sampling((forward.graph, bool(self._sampler.state.limited)))
        rows = forward.batch.layout.num_rows
        if rows < token_ids.shape[0]:
            token_ids, failed = token_ids[:rows], failed[:rows]
        return SampledTokens(token_ids, failed)

    def _choose(self, key: tuple[DecodeKey, bool]) -> tuple[torch.Tensor, torch.Tensor]:
        step, limited = key
        slots, positions = self._decode.slots[: step.rows], self._decode.inputs.positions[: step.rows] + 1
        token_ids, failed = self._sampler.choose(self._logits[step], slots, positions, limited)
        self._states.tables.last_token.index_copy_(0, slots, token_ids)
        return token_ids, failed


def _capture(graphs: CUDAGraphWrapper, key: Any) -> tuple[torch.Tensor, ...]:
    """Runs once in the open first: libraries load what they need for this size, which a capture may not do."""
    graphs(key)
    return graphs.capture(key)
