"""BlockPool: ref counts, the free list in order of last use, and the map from hash to block.

A free block keeps its hash and content until it is handed out again, so the free list is also
the prefix cache's eviction order. Blocks without a hash go to its front: nobody can miss them.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from kvasir.errors import EngineError
from kvasir.kv_cache.block import NOT_PENDING, Block


class BlockEvent(NamedTuple):
    """`stored`: content became findable; `removed`: it no longer is; `cleared`: nothing is."""

    kind: Literal["stored", "removed", "cleared"]
    block_id: int = -1
    hash: bytes = b""


class BlockPool:
    def __init__(self, num_blocks: int, on_event: Callable[[BlockEvent], None] | None = None):
        self.blocks = [Block(i) for i in range(num_blocks)]
        self.num_free = num_blocks
        self._by_hash: dict[bytes, Block] = {}
        self._pending: dict[int, list[Block]] = {}  # step id -> blocks whose content that step writes
        self._on_event = on_event
        self._ends = Block(-1)  # sentinel: .next is the first to be reused, .prev the last
        chain = [self._ends, *self.blocks, self._ends]
        for left, right in pairwise(chain):
            left.next, right.prev = right, left

    @property
    def num_used(self) -> int:
        return len(self.blocks) - self.num_free

    @property
    def num_hashed(self) -> int:
        return len(self._by_hash)

    # ---- taking and releasing

    def take(self, count: int) -> list[Block]:
        """`count` blocks with one reference each; what they held leaves the prefix cache."""
        if count > self.num_free:
            raise EngineError(f"{count} KV blocks were asked for and {self.num_free} are free: ask before taking.")
        taken, ends, block = [], self._ends, self._ends.next
        for _ in range(count):
            if block.hash is not None:
                self.forget(block)
            block.ref_count = 1
            taken.append(block)
            following = block.next
            block.prev = block.next = None
            block = following
        ends.next, block.prev = block, ends
        self.num_free -= count
        return taken

    def share(self, block: Block) -> None:
        """One more reference to a block found by its hash."""
        if block.ref_count == 0:
            block.prev.next, block.next.prev = block.next, block.prev
            block.prev = block.next = None
            self.num_free -= 1
        block.ref_count += 1

    def release(self, blocks: Sequence[Block]) -> None:
        """Drops one reference of each; the tail of a sequence is evicted before its head."""
        for block in reversed(blocks):
            block.ref_count -= 1
            if block.ref_count == 0:
                self.num_free += 1
                if block.hash is None:
                    self._link(block, self._ends, self._ends.next)
                else:
                    self._link(block, self._ends.prev, self._ends)
            elif block.ref_count < 0:
                raise EngineError(f"KV block {block.block_id} was released more often than taken.")

    @staticmethod
    def _link(block: Block, left: Block, right: Block) -> None:
        block.prev, block.next = left, right
        left.next = right.prev = block

    # ---- hashes

    def find(self, block_hash: bytes) -> Block | None:
        return self._by_hash.get(block_hash)

    def publish(self, block: Block, block_hash: bytes, step_id: int | None) -> None:
        """Makes the content findable. With a step id it counts as promised until `confirm_step`.

        A second block of the same content stays nameless: the first one serves everybody.
        """
        if block.hash is not None or block_hash in self._by_hash:
            return
        block.hash = block_hash
        self._by_hash[block_hash] = block
        if step_id is not None:
            block.pending_step = step_id
            self._pending.setdefault(step_id, []).append(block)
        if self._on_event:
            self._on_event(BlockEvent("stored", block.block_id, block_hash))

    def forget(self, block: Block) -> None:
        """Takes the content's name away; the block stays where it is."""
        if self._on_event:
            self._on_event(BlockEvent("removed", block.block_id, block.hash))
        del self._by_hash[block.hash]
        block.hash = None
        block.pending_step = NOT_PENDING

    def confirm_step(self, step_id: int) -> None:
        """The step ran: its blocks hold what their hashes say."""
        for block in self._pending.pop(step_id, ()):
            if block.pending_step == step_id:  # else reused since
                block.pending_step = NOT_PENDING

    def withdraw_from(self, step_id: int) -> set[Block]:
        """The step failed: names promised by it and by later steps are taken back."""
        withdrawn = set()
        for step in [s for s in self._pending if s >= step_id]:
            for block in self._pending.pop(step):
                if block.pending_step == step:
                    self.forget(block)
                    withdrawn.add(block)
        return withdrawn

    def clear_hashes(self) -> None:
        for block in self._by_hash.values():
            block.hash = None
            block.pending_step = NOT_PENDING
        self._by_hash.clear()
        self._pending.clear()
        if self._on_event:
            self._on_event(BlockEvent("cleared"))

    # ---- audit

    def audit(self, refs: dict[int, int]) -> list[str]:
        """What is wrong, as sentences; `refs` is how often each block id occurs in tables."""
        wrong: list[str] = []
        free: set[int] = set()
        block = self._ends.next
        while block is not self._ends and len(free) <= len(self.blocks):
            if block.next.prev is not block:
                wrong.append(f"{block} has a broken link to its next in the free list")
                break
            free.add(block.block_id)
            block = block.next
        if len(free) != self.num_free:
            wrong.append(f"free list holds {len(free)} blocks, the count says {self.num_free}")
        for block in self.blocks:
            if block.ref_count != refs.get(block.block_id, 0):
                wrong.append(f"{block} is in {refs.get(block.block_id, 0)} tables")
            if (block.ref_count == 0) != (block.block_id in free):
                wrong.append(f"{block} is {'' if block.block_id in free else 'not '}in the free list")
            if block.hash is not None and self._by_hash.get(block.hash) is not block:
                wrong.append(f"{block} has a hash the map does not know")
            if block.pending_step != NOT_PENDING and block not in self._pending.get(block.pending_step, ()):
                wrong.append(f"{block} waits for a step that does not know it")
        for block_hash, block in self._by_hash.items():
            if block.hash != block_hash:
                wrong.append(f"hash {block_hash.hex()[:8]} points to {block}")
        return wrong
