"""Which KV blocks hold which tokens: a pool of block numbers, prefix sharing by hash, least recently used eviction.

*Ring*: core. Request id, token ids, block hashes -> block ids.
*Knows nothing about*: requests' states, who runs first, devices, what a block's bytes look like.
"""

from kvasir.kv_cache.block import Block
from kvasir.kv_cache.hashing import BlockHasher, HashChain
from kvasir.kv_cache.manager import KVCacheManager
from kvasir.kv_cache.pool import BlockEvent, BlockPool
from kvasir.kv_cache.spec import KVSpec

__all__ = ["Block", "BlockEvent", "BlockHasher", "BlockPool", "HashChain", "KVCacheManager", "KVSpec"]
