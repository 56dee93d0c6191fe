"""SamplingState: the sampling parameters of every worker slot, on the device, with just enough of them on the host.

The device tables are what kernels read; the host columns only choose the path of a step (does any row want top-p?).
"""

from collections.abc import Sequence

import numpy as np
import torch

from kvasir.logger import get_logger
from kvasir.messages import SlotRequest
from kvasir.messages.params import GREEDY_EPS
from kvasir.sampling.params_check import check_request
from kvasir.sampling.processor import LogitsProcessor
from kvasir.sampling.processors import built_in_processors
from kvasir.sampling.uploads import Uploads

logger = get_logger(__name__)


class SamplingState:
    """One row for each slot of the worker.

    Call `add` / `remove` / `move` for the step's changes, then `flush` once: all writes go as one copy, in order.

    Attributes:
        temperature, top_p, min_p: [M + 1] float32; temperature 0 means greedy.
        top_k, seed, num_prompt_tokens: [M + 1] int64; the seed is 64 bits read as signed.
        processors: the built-in ones and `extra_processors`, in the order in which they are applied.
    """

    def __init__(
        self,
        max_num_seqs: int,
        vocab_size: int,
        device: torch.device | str,
        extra_processors: Sequence[LogitsProcessor] = (),
    ):
        self.max_num_seqs, self.vocab_size, self.device = max_num_seqs, vocab_size, torch.device(device)
        rows = max_num_seqs + 1  # one spare, greedy without limits: rows that pad a step name it
        self._floats = torch.zeros(3, rows, dtype=torch.float32, device=self.device)
        self._ints = torch.zeros(3, rows, dtype=torch.int64, device=self.device)
        self.temperature, self.top_p, self.min_p = self._floats
        self.top_k, self.seed, self.num_prompt_tokens = self._ints
        self.top_p.fill_(1.0)
        # Host columns, for choosing paths.
        self.greedy = [True] * max_num_seqs
        self.host_top_k = [0] * max_num_seqs
        self.host_top_p = [1.0] * max_num_seqs
        self.host_min_p = [0.0] * max_num_seqs
        self.num_logprobs: list[int | None] = [None] * max_num_seqs
        self.limited: set[int] = set()  # slots with top-k, top-p or min-p
        self.with_logprobs: set[int] = set()
        self._pending: dict[int, tuple[list[float], list[int]]] = {}
        self.uploads = Uploads(self.device)
        self.processors: list[LogitsProcessor] = [
            *built_in_processors(max_num_seqs, vocab_size, self.uploads),
            *extra_processors,
        ]

    @torch.inference_mode()
    def add(self, slot: int, request: SlotRequest) -> None:
        """Put a request, new or resumed, into a free slot.

        Raises:
            UserError: a token id of the request lies outside the vocabulary; the slot stays free.
        """
        check_request(request, self.vocab_size)
        params = request.params
        # With top_k 1 nothing is left to chance; greedy also settles ties the same way each time.
        greedy = params.temperature < GREEDY_EPS or params.top_k == 1
        temperature = 0.0 if greedy else params.temperature
        top_k = 0 if greedy or params.top_k >= self.vocab_size else max(params.top_k, 0)
        top_p, min_p = (1.0, 0.0) if greedy else (params.top_p, params.min_p)
        seed = request.seed & (2**64 - 1)
        seed = seed - 2**64 if seed >= 2**63 else seed
        self._pending[slot] = ([temperature, top_p, min_p], [top_k, seed, request.num_prompt_tokens])
        self.greedy[slot], self.host_top_k[slot] = greedy, top_k
        self.host_top_p[slot], self.host_min_p[slot] = top_p, min_p
        self.num_logprobs[slot] = params.logprobs
        self._note_kinds(slot)
        try:
            for processor in self.processors:
                processor.add(slot, request)
        except Exception:
            self.remove(slot)
            raise

    def remove(self, slot: int) -> None:
        """Free a slot. What is left of it on the device means nothing until the next `add`."""
        self._pending.pop(slot, None)
        self.greedy[slot], self.num_logprobs[slot] = True, None
        self.host_top_k[slot], self.host_top_p[slot], self.host_min_p[slot] = 0, 1.0, 0.0
        self._note_kinds(slot)
        for processor in self.processors:
            try:
                processor.remove(slot)
            except Exception:  # the request is gone; its end must not fail those that are not
                logger.exception("%s could not let go of slot %d", type(processor).__name__, slot)

    def _note_kinds(self, slot: int) -> None:
        limited = self.host_top_k[slot] > 0 or self.host_top_p[slot] < 1.0 or self.host_min_p[slot] > 0.0
        (self.limited.add if limited else self.limited.discard)(slot)
        (self.with_logprobs.discard if self.num_logprobs[slot] is None else self.with_logprobs.add)(slot)

    @property
    def needs_host(self) -> bool:
        """Whether some slot asks for more than the choice of a token: a processor, or log-probabilities."""
        return bool(self.with_logprobs) or any(processor.slots for processor in self.processors)

    def move(self, source: int, target: int) -> None:
        """The request in `source` goes on in `target`."""
        self._write_pending()
        for column in (self.greedy, self.host_top_k, self.host_top_p, self.host_min_p, self.num_logprobs):
            column[target] = column[source]
        self._note_kinds(target)

        def copy_row(_: torch.Tensor) -> None:
            self._floats[:, target] = self._floats[:, source]
            self._ints[:, target] = self._ints[:, source]

        self.uploads.do(copy_row)
        for processor in self.processors:
            processor.move(source, target)
        self.remove(source)

    @torch.inference_mode()
    def flush(self) -> None:
        """Send this step's changes. Call once, before the rows of the step are sampled."""
        self._write_pending()
        self.uploads.flush()

    def _write_pending(self) -> None:
        if not self._pending:
            return
        slots = np.fromiter(self._pending, dtype=np.int64)
        floats = np.array([f for f, _ in self._pending.values()], dtype=np.float64)  # [n, 3]
        ints = np.array([i for _, i in self._pending.values()], dtype=np.int64)  # [n, 3]
        self._pending.clear()
        n = len(slots)
        packed = np.concatenate([slots, ints.T.reshape(-1), floats.T.reshape(-1).view(np.int64)])

        def write(words: torch.Tensor) -> None:
            where = words[:n]
            self._ints.index_copy_(1, where, words[n : 4 * n].view(3, n))
            self._floats.index_copy_(1, where, words[4 * n :].view(torch.float64).float().view(3, n))

        self.uploads.put(packed, write)
