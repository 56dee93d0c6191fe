"""KVCacheManager: the block tables of all placed requests, over one BlockPool."""

from collections.abc import Callable, Sequence

from kvasir.errors import EngineError
from kvasir.kv_cache.block import Block
from kvasir.kv_cache.hashing import BlockHasher, HashChain
from kvasir.kv_cache.pool import BlockEvent, BlockPool
from kvasir.kv_cache.spec import KVSpec


class _Table:
    """Blocks of one request: the first `num_hits` were found in the cache, the first `num_named` need no publishing."""

    __slots__ = ("blocks", "num_hits", "num_named")

    def __init__(self, blocks: list[Block], num_hits: int):
        self.blocks = blocks
        self.num_hits = num_hits
        self.num_named = num_hits


class KVCacheManager:
    """Gives blocks to requests and shares those of equal prefixes.

    A request is placed (`place`), grows (`grow`) and is released (`release`). Full blocks become findable with
    `publish`, at once, though the step that fills them has yet to run: whoever finds one runs in the same step
    or later, so it reads after the write. `confirm_step` and `withdraw_from` say how the step ended.

    Args:
        hash_key: 32 bytes that key the block hashes; random by default.
        on_event: told of every block that becomes findable or stops being so.
    """

    def __init__(
        self,
        spec: KVSpec,
        *,
        enable_prefix_caching: bool = True,
        hash_key: bytes | None = None,
        on_event: Callable[[BlockEvent], None] | None = None,
    ):
        self.spec = spec
        self.block_size = spec.block_size
        self.enable_prefix_caching = enable_prefix_caching
        self.pool = BlockPool(spec.num_blocks, on_event)
        self.prefix_queries = 0  # tokens
        self.prefix_hits = 0
        self._hasher = BlockHasher(spec.block_size, hash_key)
        self._tables: dict[str, _Table] = {}

    @property
    def num_free_blocks(self) -> int:
        return self.pool.num_free

    @property
    def num_used_blocks(self) -> int:
        return self.pool.num_used

    # ---- prefix cache, reading

    def chain(self, cache_salt: str | None = None, extra_key: str | None = None) -> HashChain:
        """The chain a request keeps for life and extends with its tokens before each `lookup` and `publish`."""
        return self._hasher.chain(cache_salt, extra_key)

    def lookup(self, hashes: Sequence[bytes], num_tokens: int) -> int:
        """Leading blocks found in the cache; never all tokens, since one must be computed to sample from.

        Does not change the cache. The answer holds until the next call that does.
        """
        if not self.enable_prefix_caching:
            return 0
        find, count = self.pool.find, 0
        for block_hash in hashes[: (num_tokens - 1) // self.block_size]:
            if find(block_hash) is None:
                break
            count += 1
        return count

    def count_query(self, num_tokens: int, num_hit_tokens: int) -> None:
        """Statistics; the caller calls it once per request, however often the request was tried or preempted."""
        self.prefix_queries += num_tokens
        self.prefix_hits += num_hit_tokens

    # ---- tables

    def blocks_to_take(self, hashes: Sequence[bytes], num_hits: int, num_tokens: int) -> int:
        """Blocks that leave the free list when `num_tokens` are placed with `num_hits` blocks from the cache."""
        idle = sum(self.pool.find(h).ref_count == 0 for h in hashes[:num_hits])
        return self.spec.blocks_for(num_tokens) - num_hits + idle

    def can_place(self, hashes: Sequence[bytes], num_hits: int, num_tokens: int, spare: int = 0) -> bool:
        """Whether `num_tokens` fit, with `num_hits` blocks from the cache and `spare` blocks left over."""
        return self.blocks_to_take(hashes, num_hits, num_tokens) + spare <= self.pool.num_free

    def place(self, request_id: str, hashes: Sequence[bytes], num_hits: int, num_tokens: int) -> list[int]:
        """Block ids for `num_tokens`, the first `num_hits` of them shared; `can_place` must have agreed."""
        if request_id in self._tables:
            raise EngineError(f"request {request_id} has a block table already.")
        blocks = [self.pool.find(h) for h in hashes[:num_hits]]
        for block in blocks:
            self.pool.share(block)
        blocks += self.pool.take(self.spec.blocks_for(num_tokens) - num_hits)
        self._tables[request_id] = _Table(blocks, num_hits)
        return [b.block_id for b in blocks]

    def can_grow(self, request_id: str, num_tokens: int) -> bool:
        return self.spec.blocks_for(num_tokens) - len(self._tables[request_id].blocks) <= self.pool.num_free

    def grow(self, request_id: str, num_tokens: int) -> list[int]:
        """Ids of the blocks added so that the table holds `num_tokens`; often none."""
        table = self._tables[request_id]
        missing = self.spec.blocks_for(num_tokens) - len(table.blocks)
        if missing <= 0:
            return []
        added = self.pool.take(missing)
        table.blocks += added
        return [b.block_id for b in added]

    def release(self, request_id: str) -> None:
        """The request ended or was preempted. Its named blocks stay findable until they are reused."""
        self.pool.release(self._tables.pop(request_id).blocks)

    def holds(self, request_id: str) -> bool:
        """Whether the request is placed."""
        return request_id in self._tables

    def capacity(self, request_id: str) -> int:
        """Tokens the request's blocks hold."""
        return len(self._tables[request_id].blocks) * self.block_size

    def block_ids(self, request_id: str) -> list[int]:
        return [b.block_id for b in self._tables[request_id].blocks]

    # ---- prefix cache, writing

    def publish(self, request_id: str, hashes: Sequence[bytes], num_blocks: int, step_id: int | None) -> None:
        """The first `num_blocks` blocks are full of known tokens once `step_id` has run (None: they are already)."""
        table = self._tables[request_id]
        if num_blocks <= table.num_named or not self.enable_prefix_caching:
            return
        for i in range(table.num_named, num_blocks):
            self.pool.publish(table.blocks[i], hashes[i], step_id)
        table.num_named = num_blocks

    def confirm_step(self, step_id: int) -> None:
        self.pool.confirm_step(step_id)

    def withdraw_from(self, step_id: int) -> list[str]:
        """Takes back what this and later steps promised; returns the requests that built on it as readers.

        Writers of later steps keep their tables and publish again.
        """
        withdrawn = self.pool.withdraw_from(step_id)
        if not withdrawn:
            return []
        readers = []
        for request_id, table in self._tables.items():
            first = next((i for i, b in enumerate(table.blocks[: table.num_named]) if b in withdrawn), None)
            if first is not None:
                table.num_named = first
                if first < table.num_hits:
                    readers.append(request_id)
        return readers

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached content, e.g. after a weight update. Refused (False) while any request holds blocks."""
        if self._tables:
            return False
        self.pool.clear_hashes()
        return True

    # ---- audit

    def check_integrity(self) -> None:
        """Audits every block. Raises EngineError that lists what is wrong."""
        refs: dict[int, int] = {}
        wrong = []
        for request_id, table in self._tables.items():
            ids = [b.block_id for b in table.blocks]
            if len(set(ids)) != len(ids):
                wrong.append(f"request {request_id} holds a block twice: {ids}")
            for block_id in ids:
                refs[block_id] = refs.get(block_id, 0) + 1
        wrong += self.pool.audit(refs)
        if wrong:
            raise EngineError("KV blocks are inconsistent: " + "; ".join(wrong[:10]))
