import random

import pytest

from kvasir.kv_cache import BlockHasher

KEY = bytes(range(32))


def chain_of(tokens, *, size=4, key=KEY, salt=None, extra=None):
    return BlockHasher(size, key).chain(salt, extra).extend(tokens)


@pytest.mark.parametrize("seed", range(5))
def test_extending_bit_by_bit_gives_the_same_hashes(seed):
    rng = random.Random(seed)
    tokens = [rng.randrange(2**31) for _ in range(rng.randint(0, 100))]
    size = rng.randint(1, 9)
    chain, upto = BlockHasher(size, KEY).chain("s"), 0
    while upto < len(tokens):
        upto += rng.randint(1, 7)
        chain.extend(tokens[:upto])
    assert chain.hashes == chain_of(tokens, size=size, salt="s")
    assert len(chain.hashes) == len(tokens) // size


def test_a_block_is_hashed_once():
    hasher = BlockHasher(4, KEY)
    links = []
    link = hasher.link
    hasher.link = lambda parent, packed: links.append(packed) or link(parent, packed)
    chain = hasher.chain()
    for n in range(33):
        chain.extend(list(range(n)))
        chain.extend(list(range(n)))
    assert len(links) == 8


def test_names_cover_everything_before():
    a, b = chain_of([1, 2, 3, 4, 5, 6, 7, 8]), chain_of([9, 2, 3, 4, 5, 6, 7, 8])
    assert not set(a) & set(b)
    assert chain_of([1, 2, 3, 4, 0, 0, 0, 0])[0] == a[0]


def test_key_salt_and_extra_key_separate():
    tokens = list(range(8))
    variants = [
        chain_of(tokens),
        chain_of(tokens, key=bytes(32)),
        chain_of(tokens, salt=""),
        chain_of(tokens, salt="a"),
        chain_of(tokens, extra="a"),
        chain_of(tokens, salt="a", extra="b"),
        chain_of(tokens, salt="a|1:b"),
        chain_of(tokens, salt="b", extra="a"),
    ]
    assert len({h for v in variants for h in v}) == 2 * len(variants)


def test_random_key_by_default():
    assert BlockHasher(4).chain().extend([1, 2, 3, 4]) != BlockHasher(4).chain().extend([1, 2, 3, 4])
