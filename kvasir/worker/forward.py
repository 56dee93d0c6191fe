"""From a step's layout to hidden states (and, where every row decodes, logits), by replay where the shape was captured.

Two passes do the same work for different batches:

- `RaggedPass`: any batch. The host says which tokens; lengths may differ.
- `DecodePass`: every row computes its newest token. All it needs is in the slots' state, so that the host sends nothing
  but the list of slots, and that only when it changed.

Each is called twice a step: `stage` hands what the host knows to the step's one upload, `run` launches kernels.
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch

from kvasir.attention.backend import AttentionBatch, MetadataBuilder
from kvasir.attention.forward_context import ForwardContext, forward_context
from kvasir.compilation import BatchDescriptor, CudagraphDispatcher, CudagraphMode, CUDAGraphWrapper, GraphPool
from kvasir.models.interface import TextModel
from kvasir.ops import StepInputs, decode_inputs, ragged_inputs
from kvasir.sampling.uploads import Uploads
from kvasir.worker.inputs import InputBatch, StepLayout
from kvasir.worker.states import RequestStates


@dataclass(frozen=True)
class Forward:
    """What a pass has launched.

    Attributes:
        hidden: [T, E], or [B, E] of the tokens that are sampled from, see `only_sampled`.
        logits: [R, V] where the pass makes them, since all rows sample; None: they are still to be made.
        graph: key of the captured step that served it (of a mixed one: its tokens), None if none did.
        missing: key of the one that would have served it but is not captured yet, None if none.
    """

    batch: InputBatch
    hidden: torch.Tensor
    logits: torch.Tensor | None = None
    graph: "DecodeKey | int | None" = None
    missing: "DecodeKey | int | None" = None
    only_sampled: bool = False


@dataclass(frozen=True)
class PassParts:
    """What both passes work with. `max_tokens`: tokens of the largest step."""

    model: TextModel
    states: RequestStates
    builder: MetadataBuilder
    kv_caches: list[torch.Tensor]
    uploads: Uploads
    dispatcher: CudagraphDispatcher
    max_tokens: int

    def forward(
        self,
        attention: AttentionBatch,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        last: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """-> hidden [T, E]; with `last` [B, E], of those tokens."""
        with forward_context(ForwardContext(self.builder.build(attention), self.kv_caches)):
            return self.model.forward(input_ids, positions, last)

    def new_inputs(self, num_tokens: int, num_rows: int) -> StepInputs:
        tokens = torch.zeros(3, num_tokens, dtype=torch.int64, device=self.uploads.device)
        return StepInputs(*tokens, torch.zeros(num_rows, dtype=torch.int32, device=self.uploads.device))

    def picked(self, layout: StepLayout, uniform_decode: bool) -> int:
        """Size of the graph for this batch, 0 if none is."""
        mode, size = self.dispatcher.pick(BatchDescriptor(layout.num_tokens, layout.num_rows, uniform_decode))
        return size if mode is CudagraphMode.FULL else 0


MAX_PADDING = 1.5
"""A captured step serves down to this share of its rows while the graph of the right size is not captured yet."""
USES_BEFORE_CAPTURE = 32
"""Steps that a larger graph serves before it pays to capture the right one, which takes as long as some of them."""
MIN_SHARED_ROWS = 8
MIN_SHARED_TOKENS = 512
"""From here on it pays to read a prefix that all rows share apart from the rest."""


@dataclass(frozen=True)
class DecodeKey:
    """What a decode step is captured by. `shared`: its rows share a prefix that is worth a kernel of its own."""

    rows: int
    shared: bool = False


class DecodePass:
    """Rows of one token each, which all sample. Rows of a graph beyond the batch's are spare."""

    def __init__(self, parts: PassParts, pool: GraphPool | None):
        self._parts = parts
        device, rows = parts.uploads.device, parts.states.spare
        self.slots = torch.full((rows,), parts.states.spare, dtype=torch.int64, device=device)
        self._starts = torch.arange(rows + 1, dtype=torch.int32, device=device)
        self._indices = torch.arange(rows, device=device)
        self._shared_len = torch.zeros(1, dtype=torch.int32, device=device)
        self.inputs = parts.new_inputs(rows, rows)
        self.graphs = CUDAGraphWrapper(self._launch, pool)
        self._views = (self.slots, self.inputs.input_ids, self.inputs.positions, self._indices)  # of R rows
        self._layout: StepLayout | None = None
        self._key = DecodeKey(0)
        self._missing: DecodeKey | None = None
        self._uses: Counter[DecodeKey] = Counter()  # of keys that are not captured
        self._staged: tuple[int, list[int]] = (0, [])  # what `slots` will hold: rows, and those that are real
        self._shared_tokens = 0  # what `_shared_len` will hold
        self._shared_by: tuple[int, list[int]] = (0, [])  # whose: `states.entries` and slots when it was looked for

    @property
    def sizes(self) -> list[int]:
        return self._parts.dispatcher.decode_sizes

    def stage(self, layout: StepLayout) -> None:
        self._layout = layout
        shared_by = self._parts.states.entries, layout.host_slots
        if self._shared_by != shared_by:
            self._shared_by = shared_by
            self._stage_shared(layout)
        self._key, self._missing = self._choose(layout)
        rows = self._key.rows
        if self._staged != (rows, layout.host_slots):
            self._staged = rows, layout.host_slots
            padded = np.full(rows, self._parts.states.spare, dtype=np.int64)
            padded[: layout.num_rows] = layout.slots
            self._parts.uploads.put(padded, lambda words: self.slots[:rows].copy_(words))

    def _choose(self, layout: StepLayout) -> tuple[DecodeKey, DecodeKey | None]:
        """What to run, and what to capture afterwards."""
        shared = self._shared_tokens > 0
        size = self._parts.picked(layout, uniform_decode=True)
        if not size:
            return DecodeKey(layout.num_rows, shared), None
        right = DecodeKey(size, shared)
        if right in self.graphs:
            return right, None
        larger = (DecodeKey(n, shared) for n in self.sizes if size < n <= MAX_PADDING * layout.num_rows)
        substitute = next((key for key in larger if key in self.graphs), None)
        self._uses[right] += 1
        if substitute is None:
            return right, right
        return substitute, right if self._uses[right] >= USES_BEFORE_CAPTURE else None

    def _stage_shared(self, layout: StepLayout) -> None:
        """The prefix of the same requests stays: it is looked for when others are there, be it in the same slots."""
        states, tokens = self._parts.states, 0
        if layout.num_rows >= MIN_SHARED_ROWS:
            whole_blocks = int(layout.context.min()) // states.tables.block_size  # what every row has computed
            blocks = min(states.num_shared_blocks(layout.slots), whole_blocks)
            tokens = blocks * states.tables.block_size
        tokens = tokens if tokens >= MIN_SHARED_TOKENS else 0
        if tokens != self._shared_tokens:
            self._shared_tokens = tokens
            self._parts.uploads.put([tokens], self._shared_len.copy_)

    def pad_all(self) -> None:
        """All rows are padding until the next step is staged: a run writes nowhere."""
        self.slots.fill_(self._parts.states.spare)
        self._staged = 0, []

    def run(self) -> Forward:
        layout, key = self._layout, self._key
        assert layout is not None
        rows = layout.num_rows
        hidden, logits = self.graphs(key)
        if rows < key.rows:
            hidden, logits = hidden[:rows], logits[:rows]
        served_by = key if key in self.graphs else None
        return Forward(self._batch(layout), hidden, logits, served_by, self._missing)

    def _batch(self, layout: StepLayout) -> InputBatch:
        """The tensors are the same in every step of as many rows, and making a view takes longer than it looks."""
        rows, slots = layout.num_rows, self._views[0]
        if slots.shape[0] != rows:
            slots, inputs = self.slots[:rows], self.inputs
            self._views = slots, inputs.input_ids[:rows], inputs.positions[:rows], self._indices[:rows]
        slots, input_ids, positions, indices = self._views
        return InputBatch(layout, slots, input_ids, positions, slots, indices)

    def _launch(self, key: DecodeKey) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = self._inputs(key.rows)
        decode_inputs(self.slots[: key.rows], self._parts.states.tables, inputs)
        hidden = self._parts.forward(self._attention(key), inputs.input_ids, inputs.positions)
        return hidden, self._parts.model.compute_logits(hidden)

    def _inputs(self, rows: int) -> StepInputs:
        i = self.inputs
        return StepInputs(i.input_ids[:rows], i.positions[:rows], i.slot_mapping[:rows], i.seq_lens[:rows])

    def _attention(self, key: DecodeKey) -> AttentionBatch:
        states, rows = self._parts.states, key.rows
        return AttentionBatch(
            query_start_loc=self._starts[: rows + 1],
            seq_lens=self.inputs.seq_lens[:rows],
            block_table=states.tables.block_table,
            table_rows=self.slots[:rows],
            slot_mapping=self.inputs.slot_mapping[:rows],
            num_reqs=rows,
            num_tokens=rows,
            num_decodes=rows,
            max_query_len=1,
            max_seq_len=states.max_blocks * states.tables.block_size,
            query_lens=[],
            context_lens=[],
            shared_len=self._shared_len if key.shared else None,
        )


class RaggedPass:
    """Any batch. Graph keys are numbers of tokens; all graphs have the same number of rows."""

    def __init__(self, parts: PassParts, pool: GraphPool | None):
        self._parts = parts
        device = parts.uploads.device
        self._graph_rows = parts.dispatcher.max_mixed_reqs
        self._inputs = parts.new_inputs(parts.max_tokens, max(parts.states.spare, self._graph_rows))
        tokens = max(parts.dispatcher.mixed_sizes, default=0)
        self._slots = torch.full((self._graph_rows,), parts.states.spare, dtype=torch.int64, device=device)
        self._starts = torch.zeros(self._graph_rows + 1, dtype=torch.int32, device=device)
        self._host_ids = torch.zeros(tokens, dtype=torch.int64, device=device)
        self.graphs = CUDAGraphWrapper(self._launch_padded, pool)
        self._layout: StepLayout | None = None
        self._size = 0
        self._words: list[torch.Tensor] = []  # as uploaded: slots, starts, ids, slots, tokens and rows that sample
        self._only_sampled = False

    def stage(self, layout: StepLayout, needs_all: bool = False) -> None:
        """`needs_all`: somebody reads the hidden states of tokens that are not sampled from."""
        size = self._parts.picked(layout, uniform_decode=False)
        self._layout, self._size = layout, size
        self._only_sampled = not size and not needs_all
        slots, starts, ids = layout.slots, layout.starts, layout.host_ids(self._parts.states)
        if size:
            slots = _padded(slots, self._graph_rows, self._parts.states.spare)
            starts = _padded(starts, self._graph_rows + 1, layout.num_tokens)
            ids = _padded(ids, size, 0)
        self._words = []
        sample_slots, sample_tokens = layout.slots[layout.sample_rows], layout.starts[layout.sample_rows + 1] - 1
        for values in (slots, starts, ids, sample_slots, sample_tokens, layout.sample_rows):
            self._parts.uploads.put(values, self._words.append)

    @property
    def sizes(self) -> list[int]:
        return self._parts.dispatcher.mixed_sizes

    def pad_all(self) -> None:
        """All rows are padding until the next step is staged: a run writes nowhere."""
        self._slots.fill_(self._parts.states.spare)
        self._starts.zero_()

    def run(self) -> Forward:
        layout = self._layout
        assert layout is not None
        slots, starts, ids, sample_slots, sample_tokens, sample_rows = self._words
        tokens = self._size or layout.num_tokens
        if self._size:
            self._slots.copy_(slots)
            self._starts.copy_(starts)
            self._host_ids[:tokens].copy_(ids)
            (hidden,) = self.graphs(tokens)
            attention = self._attention(self._slots, self._starts, tokens, layout)
        else:
            starts = starts.int()
            attention, last = self._attention(slots, starts, tokens, layout), None
            if self._only_sampled:
                attention, last = replace(attention, last_rows=sample_rows), sample_tokens
            hidden = self._launch(slots, starts, ids, attention, last)
        real = layout.num_tokens
        batch = InputBatch(
            layout, slots[: layout.num_rows], self._inputs.input_ids[:real], self._inputs.positions[:real],
            sample_slots, sample_tokens,
        )  # fmt: skip
        captured = self._size in self.graphs
        missing = None if captured or not self._size else self._size
        hidden = hidden if self._only_sampled else hidden[:real]
        return Forward(batch, hidden, None, self._size if captured else None, missing, self._only_sampled)

    def _launch_padded(self, tokens: int) -> tuple[torch.Tensor]:
        attention = self._attention(self._slots, self._starts, tokens)
        return (self._launch(self._slots, self._starts, self._host_ids[:tokens], attention),)

    def _launch(
        self,
        slots: torch.Tensor,
        starts: torch.Tensor,
        ids: torch.Tensor,
        attention: AttentionBatch,
        last: torch.Tensor | None = None,
    ) -> torch.Tensor:
        tables, i = self._parts.states.tables, self._inputs
        tokens = ids.shape[0]
        inputs = StepInputs(i.input_ids[:tokens], i.positions[:tokens], attention.slot_mapping, attention.seq_lens)
        ragged_inputs(slots, starts, ids, tables, inputs)
        hidden = self._parts.forward(attention, inputs.input_ids, inputs.positions, last)  # [T or B, E]
        tables.num_computed.index_add_(0, slots, starts.diff().long())
        return hidden

    def _attention(
        self, slots: torch.Tensor, starts: torch.Tensor, tokens: int, layout: StepLayout | None = None
    ) -> AttentionBatch:
        states, rows = self._parts.states, slots.shape[0]
        known = layout is not None and rows == layout.num_rows
        return AttentionBatch(
            query_start_loc=starts,
            seq_lens=self._inputs.seq_lens[:rows],
            block_table=states.tables.block_table,
            table_rows=slots,
            slot_mapping=self._inputs.slot_mapping[:tokens],
            num_reqs=rows,
            num_tokens=tokens,
            num_decodes=layout.num_decodes if layout and known else None,
            max_query_len=int(layout.lens.max()) if layout else tokens,
            max_seq_len=int((layout.context + layout.lens).max())
            if layout
            else states.max_blocks * states.tables.block_size,
            query_lens=layout.lens.tolist() if layout else [],
            context_lens=layout.context.tolist() if layout else [],
        )


def _padded(values: np.ndarray, length: int, filler: int) -> np.ndarray:
    padded = np.full(length, filler, dtype=np.int64)
    padded[: len(values)] = values
    return padded
