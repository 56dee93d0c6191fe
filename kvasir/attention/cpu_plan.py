"""What the CPU backend decides once per step, so that each layer only runs kernels.

A plan (one per sliding window that the model's layers use) lists decode groups and prefill rows:

- decode rows of similar length form a group, padded to its longest row and gathered together, as long as padding stays
  small and the gathered rows stay in the processor's cache; a long row that can be read in place is a group of one;
- a prefill row is one causal call when nothing is cached and the window does not cut it, and otherwise one or more
  chunks with a mask. What a mask says depends only on key position minus query position, so with the queries in
  reverse order mask[i, j] = band[i + j]: a view of one short vector, whatever the size of the matrix.
"""

from dataclasses import dataclass, field

import torch

from kvasir.attention.backend import AttentionBatch

_GROUP_BYTES = 8 << 20  # gathered rows beyond this fall out of the last-level cache before they are read
_IN_PLACE_BYTES = 256 << 10  # a copy of less than this is cheaper than a call of its own
_CHUNK = 256  # query tokens per chunk when a window lets most keys be skipped, or when scores are made in the open


@dataclass(frozen=True)
class Rows:
    """Token rows of the flat cache: a run [first, first + length) to view, or an index to gather."""

    first: int
    length: int
    index: torch.Tensor | None = None  # [length] int64


@dataclass(frozen=True)
class DecodeGroup:
    tokens: slice | torch.Tensor  # rows of the query
    num_rows: int
    rows: Rows  # num_rows x longest
    mask: torch.Tensor | None  # [num_rows, 1, 1, longest], added


@dataclass(frozen=True)
class Chunk:
    """Query tokens [begin, end) over keys [first_key, last_key) of their row's `Rows`."""

    begin: int
    end: int
    first_key: int
    last_key: int
    mask: torch.Tensor | None  # [end - begin, last_key - first_key] for reversed queries; None: plainly causal


@dataclass(frozen=True)
class PrefillRow:
    begin: int
    end: int
    rows: Rows | None  # None: the step's own keys and values
    chunks: list[Chunk]


@dataclass(frozen=True)
class Plan:
    decodes: list[DecodeGroup]
    prefills: list[PrefillRow]
    one_group_in_order: bool  # the only work is decodes[0], its rows are the query's rows
    leaves_gaps: bool  # some query tokens are padding and get zeros


class Workspace:
    """A buffer for gathered rows that outlives steps: fresh pages cost more than the copy itself."""

    def __init__(self) -> None:
        self._buffer: torch.Tensor | None = None

    def rows(self, like: torch.Tensor, length: int) -> torch.Tensor:  # [length, 2, K, D]
        size = length * like.shape[1:].numel()
        if self._buffer is None or self._buffer.dtype != like.dtype or self._buffer.numel() < size:
            self._buffer = torch.empty(max(size, _GROUP_BYTES // like.element_size()), dtype=like.dtype)
        return self._buffer[:size].view(length, *like.shape[1:])


@dataclass
class CpuMetadata:
    write_slots: torch.Tensor  # [W] int64, slots of the tokens that are written
    write_tokens: torch.Tensor | None  # [W] int64, those tokens; None: all
    planner: "Planner"
    workspace: Workspace
    plans: dict[int | None, Plan] = field(default_factory=dict)

    def plan(self, sliding_window: int | None) -> Plan:
        """The step's plan for layers of this window; made when the first such layer asks."""
        if sliding_window not in self.plans:
            self.plans[sliding_window] = self.planner.plan(sliding_window)
        return self.plans[sliding_window]

    def fetch(self, cache: torch.Tensor, rows: Rows) -> torch.Tensor:  # [length, 2, K, D]
        """Good until the next fetch."""
        if rows.index is None:
            return cache[rows.first : rows.first + rows.length]
        out = self.workspace.rows(cache, rows.length)
        return torch.index_select(cache, 0, rows.index, out=out)


class CpuBuilder:
    """`chunk_all`: some layer makes its scores in the open (soft cap), so that long prompts need chunks everywhere."""

    def __init__(self, block_size: int, dtype: torch.dtype, row_bytes: int, chunk_all: bool = False) -> None:
        self._block_size = block_size
        self._dtype = dtype
        self._row_bytes = row_bytes
        self._chunk_all = chunk_all
        self._workspace = Workspace()

    def build(self, batch: AttentionBatch) -> CpuMetadata:
        slots = batch.slot_mapping
        tokens = None
        if batch.num_tokens and int(slots.min()) < 0:
            tokens = (slots >= 0).nonzero().flatten()
            slots = slots[tokens]
        planner = Planner(batch, self._block_size, self._dtype, self._row_bytes, self._chunk_all)
        return CpuMetadata(slots, tokens, planner, self._workspace)


class Planner:
    """Reads the batch's tensors (they are on the CPU), never its upper bounds."""

    def __init__(
        self, batch: AttentionBatch, block_size: int, dtype: torch.dtype, row_bytes: int, chunk_all: bool
    ) -> None:
        self._starts: list[int] = batch.query_start_loc.tolist()
        self._seq_lens: list[int] = batch.seq_lens.tolist()
        self._num_tokens = batch.slot_mapping.shape[0]
        columns = max(1, -(-max(self._seq_lens, default=0) // block_size))
        self._block_table = batch.block_table[batch.table_rows, :columns]  # [R, columns]
        self._block_size = block_size
        self._dtype = dtype
        self._row_bytes = row_bytes
        self._chunk_all = chunk_all
        self._first_blocks: list[int] = self._block_table[:, 0].tolist()
        self._in_sequence = self._find_runs(batch)

    def _find_runs(self, batch: AttentionBatch) -> list[bool]:
        """Per row: its blocks lie one after another in the cache."""
        if not self._seq_lens or self._block_table.shape[1] < 2:
            return [True] * len(self._seq_lens)
        last_block = (batch.seq_lens - 1).div(self._block_size, rounding_mode="floor").unsqueeze(1)
        unused = torch.arange(self._block_table.shape[1] - 1) >= last_block
        return ((self._block_table.diff(dim=1) == 1) | unused).all(dim=1).tolist()

    def plan(self, window: int | None) -> Plan:
        decodes: list[int] = []
        prefills: list[PrefillRow] = []
        covered = 0
        for row, seq_len in enumerate(self._seq_lens):
            query_len = self._starts[row + 1] - self._starts[row]
            if seq_len <= 0 or query_len <= 0:
                continue
            covered += query_len
            if query_len == 1:
                decodes.append(row)
            else:
                prefills.append(self._prefill(row, window))
        groups = self._group(decodes, window)
        whole = [group.tokens for group in groups if isinstance(group.tokens, slice)]
        in_order = not prefills and len(groups) == 1 and whole == [slice(0, self._num_tokens)]
        return Plan(groups, prefills, in_order, covered < self._num_tokens)

    def _rows(self, row: int, first: int) -> Rows:
        """Positions [first, end) of a request."""
        length = self._seq_lens[row] - first
        if self._in_sequence[row]:
            return Rows(self._first_blocks[row] * self._block_size + first, length)
        return Rows(-1, length, self._slots([row], [first], length))

    def _slots(self, rows: list[int], firsts: list[int], longest: int) -> torch.Tensor:
        """[len(rows) * longest] int64 slots of each row's positions from its first on; its last fills what is over."""
        table = self._block_table[rows[0] : rows[0] + 1] if len(rows) == 1 else self._block_table[torch.tensor(rows)]
        last = torch.tensor([[self._seq_lens[row] - 1] for row in rows])
        positions = torch.minimum(torch.tensor(firsts).unsqueeze(1) + torch.arange(longest), last)  # [R, C]
        blocks = positions.div(self._block_size, rounding_mode="floor")
        return (table.gather(1, blocks) * self._block_size + positions % self._block_size).flatten()

    # decode rows

    def _group(self, decodes: list[int], window: int | None) -> list[DecodeGroup]:
        groups: list[DecodeGroup] = []
        gathered: list[tuple[int, int]] = []  # (length, row)
        for row in decodes:
            length = self._seq_lens[row] if window is None else min(window, self._seq_lens[row])
            long = len(decodes) == 1 or length * self._row_bytes >= _IN_PLACE_BYTES
            if long and self._in_sequence[row]:
                token = self._starts[row]
                rows = self._rows(row, self._seq_lens[row] - length)
                groups.append(DecodeGroup(slice(token, token + 1), 1, rows, None))
            else:
                gathered.append((length, row))
        if not gathered:
            return groups
        lengths = [length for length, _ in gathered]
        if not self._fit(max(lengths), len(lengths), sum(lengths)):
            gathered.sort()  # neighbours of like length; else the rows stay in the query's order
        members: list[tuple[int, int]] = []
        longest = total = 0
        for length, row in gathered:
            if members and not self._fit(max(longest, length), len(members) + 1, total + length):
                groups.append(self._gather(members))
                members, longest, total = [], 0, 0
            members.append((length, row))
            longest, total = max(longest, length), total + length
        groups.append(self._gather(members))
        return groups

    def _fit(self, longest: int, count: int, total: int) -> bool:
        """Rows of `total` tokens waste little when padded to the longest, and stay in the cache."""
        padded = longest * count
        return padded - total <= total // 4 + _IN_PLACE_BYTES // self._row_bytes and (
            padded * self._row_bytes <= _GROUP_BYTES
        )

    def _gather(self, members: list[tuple[int, int]]) -> DecodeGroup:
        longest = max(length for length, _ in members)
        rows = [row for _, row in members]
        index = self._slots(rows, [self._seq_lens[row] - length for length, row in members], longest)
        mask = None
        if any(length < longest for length, _ in members):
            lengths = torch.tensor([[length] for length, _ in members])
            mask = torch.zeros(len(members), 1, 1, longest, dtype=self._dtype)
            mask.masked_fill_((torch.arange(longest) >= lengths)[:, None, None], float("-inf"))
        first, last = self._starts[rows[0]], self._starts[rows[-1]]
        tokens: slice | torch.Tensor
        if last - first == len(rows) - 1 and rows == sorted(rows):
            tokens = slice(first, last + 1)
        else:
            tokens = torch.tensor([self._starts[row] for row in rows])
        return DecodeGroup(tokens, len(members), Rows(-1, index.numel(), index), mask)

    # prefill rows

    def _prefill(self, row: int, window: int | None) -> PrefillRow:
        begin, end = self._starts[row], self._starts[row + 1]
        seq_len = self._seq_lens[row]
        context = seq_len - (end - begin)
        first = max(0, context - window + 1) if window is not None else 0  # oldest position any token sees
        rows = None if context == 0 else self._rows(row, first)
        cut = window is not None and window < seq_len - first
        step = _CHUNK if cut or self._chunk_all else end - begin
        chunks = []
        for start in range(begin, end, step):
            stop = min(start + step, end)
            start_pos, stop_pos = context + start - begin, context + stop - begin
            oldest = max(first, start_pos - window + 1) if window is not None else first
            mask = None
            if start_pos > oldest or cut:
                mask = self._band(stop - start, stop_pos - oldest, window)
            chunks.append(Chunk(start, stop, oldest - first, stop_pos - first, mask))
        return PrefillRow(begin, end, rows, chunks)

    def _band(self, num_queries: int, num_keys: int, window: int | None) -> torch.Tensor:
        """[num_queries, num_keys], added: row i is the i-th query from the end, which sits on the last key minus i."""
        band = torch.zeros(num_queries + num_keys - 1, dtype=self._dtype)
        band[num_keys:] = float("-inf")  # i + j = key - query + num_keys - 1
        if window is not None:
            band[: max(0, num_keys - window)] = float("-inf")
        return band.as_strided((num_queries, num_keys), (1, 1))
