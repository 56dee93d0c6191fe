"""Block: the record of one KV block."""

NOT_PENDING = -1
"""`pending_step` of a block whose content is not waiting for any step."""


class Block:
    """One KV block and its place in the free list (the links are in the record, so no list node is ever made).

    Attributes:
        ref_count: requests whose table holds it; at 0 it is in the free list.
        hash: name of its content in the prefix cache, if it is findable there.
        pending_step: the step that writes the content, until its result has come.
        prev, next: neighbours in the free list, None outside it.
    """

    __slots__ = ("block_id", "hash", "next", "pending_step", "prev", "ref_count")

    def __init__(self, block_id: int):
        self.block_id = block_id
        self.ref_count = 0
        self.hash: bytes | None = None
        self.pending_step = NOT_PENDING
        self.prev: Block | None = None
        self.next: Block | None = None

    def __repr__(self) -> str:
        name = self.hash.hex()[:8] if self.hash else "-"
        return f"Block({self.block_id}, refs={self.ref_count}, hash={name}, pending={self.pending_step})"
