"""Which part of a checkpoint tensor a worker holds, and where in a parameter it lies. Data and arithmetic only."""

from dataclasses import dataclass

import torch

from kvasir.errors import ConfigError


@dataclass(frozen=True)
class Span:
    """Entries [start, start + size) of an axis that has `full` entries in the checkpoint."""

    full: int
    start: int
    size: int

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.size)


def whole(size: int) -> Span:
    return Span(size, 0, size)


def split(size: int, rank: int, world_size: int, what: str, unit: int = 1) -> Span:
    """The rank's equal part of an axis of `size` entries, which may be cut at multiples of `unit` only.

    Raises:
        ConfigError: the axis does not divide.
    """
    if (size // unit) % world_size:
        raise ConfigError(f"{what} ({size // unit}) cannot be split over {world_size} tensor-parallel workers.")
    part = size // world_size
    return Span(size, rank * part, part)


def split_kv_heads(num_kv_heads: int, head_size: int, rank: int, world_size: int) -> Span:
    """As `split`, but with fewer heads than workers several workers keep a copy of the same head."""
    if world_size <= num_kv_heads:
        return split(num_kv_heads * head_size, rank, world_size, "num_kv_heads", head_size)
    if world_size % num_kv_heads:
        raise ConfigError(f"num_kv_heads ({num_kv_heads}) cannot be shared by {world_size} tensor-parallel workers.")
    head = rank // (world_size // num_kv_heads)
    return Span(num_kv_heads * head_size, head * head_size, head_size)


@dataclass(frozen=True)
class Piece:
    """One checkpoint tensor's place in a parameter.

    Attributes:
        spans: for each axis of the checkpoint tensor, what this worker takes of it.
        offset: the first row of the parameter it goes to (several tensors may be stacked in one parameter).
    """

    spans: tuple[Span, ...]
    offset: int = 0

    @property
    def source_shape(self) -> tuple[int, ...]:
        return tuple(span.full for span in self.spans)

    @property
    def source_index(self) -> tuple[slice, ...]:
        return tuple(span.slice for span in self.spans)

    def target(self, parameter: torch.Tensor) -> torch.Tensor:
        """The view of `parameter` that this piece fills."""
        return parameter.narrow(0, self.offset, self.spans[0].size)


def sharded_parameter(
    pieces: dict[str, Piece], dtype: torch.dtype, device: torch.device, num_rows: int | None = None
) -> torch.nn.Parameter:
    """An uninitialised parameter with room for `pieces` (part name -> piece; "" for a tensor that stands alone).

    `num_rows` asks for more rows than the pieces fill; those start as zeros.
    """
    used = max(piece.offset + piece.spans[0].size for piece in pieces.values())
    rest = [span.size for span in next(iter(pieces.values())).spans[1:]]
    data = torch.empty(num_rows or used, *rest, dtype=dtype, device=device)
    if num_rows and num_rows > used:
        data[used:].zero_()
    parameter = torch.nn.Parameter(data, requires_grad=False)
    parameter.pieces = pieces
    return parameter


def stack(parts: dict[str, Span], *others: Span) -> dict[str, Piece]:
    """Pieces for tensors stacked along their first axis in the order given; `others` are the remaining axes."""
    pieces, offset = {}, 0
    for name, span in parts.items():
        pieces[name] = Piece((span, *others), offset)
        offset += span.size
    return pieces
