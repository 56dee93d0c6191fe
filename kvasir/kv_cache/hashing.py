"""Chained block hashes: a block's name covers its own tokens and everything before them.

The hash is keyed with bytes that never leave the process, so a client cannot construct two
prompts whose blocks share a name, nor learn from timing about prompts under another salt.
"""

import hashlib
import os
import struct
from collections.abc import Sequence

DIGEST_BYTES = 16
KEY_BYTES = 32


def _root_text(cache_salt: str | None, extra_key: str | None) -> bytes:
    """Unambiguous: lengths first, and absent differs from empty."""
    parts = []
    for value in (cache_salt, extra_key):
        raw = b"" if value is None else value.encode("utf-8", "surrogatepass")
        parts.append(b"-" if value is None else b"%d:" % len(raw) + raw)
    return b"|".join(parts)


class BlockHasher:
    """Makes chains with one key. Give the same `key` to processes that are to agree on names."""

    def __init__(self, block_size: int, key: bytes | None = None):
        self.block_size = block_size
        self.pack = struct.Struct(f"<{block_size}I").pack
        self._key = os.urandom(KEY_BYTES) if key is None else key
        self._keyed = hashlib.blake2b(digest_size=DIGEST_BYTES, key=self._key, person=b"kv-block")

    def chain(self, cache_salt: str | None = None, extra_key: str | None = None) -> "HashChain":
        """An empty chain; `extra_key` is whatever else changes the KV values, e.g. the adapter's name."""
        root = hashlib.blake2b(
            _root_text(cache_salt, extra_key), digest_size=DIGEST_BYTES, key=self._key, person=b"kv-root"
        )
        return HashChain(self, root.digest())

    def link(self, parent: bytes, packed_tokens: bytes) -> bytes:
        h = self._keyed.copy()  # the key block is already absorbed: half the work of a new one
        h.update(parent + packed_tokens)
        return h.digest()


class HashChain:
    """The block hashes of one growing token sequence; each block is hashed once, ever."""

    __slots__ = ("_hasher", "_last", "hashes")

    def __init__(self, hasher: BlockHasher, root: bytes):
        self._hasher = hasher
        self._last = root
        self.hashes: list[bytes] = []

    def extend(self, token_ids: Sequence[int]) -> list[bytes]:
        """Hashes the full blocks of `token_ids` that are not hashed yet; earlier tokens must be unchanged."""
        size = self._hasher.block_size
        start, end = len(self.hashes) * size, len(token_ids) // size * size
        if start >= end:
            return self.hashes
        link, pack, last = self._hasher.link, self._hasher.pack, self._last
        for at in range(start, end, size):
            last = link(last, pack(*token_ids[at : at + size]))
            self.hashes.append(last)
        self._last = last
        return self.hashes
