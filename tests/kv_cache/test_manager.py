import random

import pytest

from kvasir.errors import ConfigError, EngineError
from kvasir.kv_cache import BlockEvent, KVCacheManager, KVSpec


def make(num_blocks=8, block_size=4, **kw):
    return KVCacheManager(KVSpec(num_blocks, block_size), **kw)


def place(kv, name, tokens, step=None, salt=None):
    """Looks up, places and publishes; returns (hits, block ids)."""
    hashes = kv.chain(salt).extend(tokens)
    hits = kv.lookup(hashes, len(tokens))
    assert kv.can_place(hashes, hits, len(tokens))
    ids = kv.place(name, hashes, hits, len(tokens))
    kv.publish(name, hashes, len(hashes), step)
    kv.check_integrity()
    return hits, ids


def test_equal_prefixes_share_blocks():
    kv = make()
    hits, first = place(kv, "a", [1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert hits == 0 and len(first) == 3
    hits, second = place(kv, "b", [1, 2, 3, 4, 5, 6, 7, 8, 10, 11])
    assert hits == 2 and second[:2] == first[:2] and second[2] != first[2]
    assert kv.num_used_blocks == 4
    assert place(kv, "c", [1, 2, 3, 4, 5, 6, 7, 8, 9], salt="x")[0] == 0


def test_at_least_one_token_is_computed():
    kv = make()
    place(kv, "a", list(range(8)))
    assert place(kv, "b", list(range(8)))[0] == 1
    assert place(kv, "c", list(range(9)))[0] == 2


def test_released_blocks_stay_findable_until_reused_tail_first():
    kv = make(num_blocks=4)
    place(kv, "a", list(range(16)))
    kv.release("a")
    hashes = kv.chain().extend(list(range(16)))
    assert kv.lookup(hashes, 17) == 4
    kv.place("b", [], 0, 8)  # takes two: the tail of a's goes first
    assert kv.lookup(hashes, 17) == 2
    kv.check_integrity()


def test_blocks_without_a_hash_are_reused_before_cached_ones():
    kv = make(num_blocks=4)
    place(kv, "a", list(range(8)))
    kv.release("a")
    kv.place("b", [], 0, 8)
    kv.release("b")
    kv.place("c", [], 0, 8)
    assert kv.lookup(kv.chain().extend(list(range(8))), 9) == 2


def test_least_recently_used_goes_first():
    kv = make(num_blocks=4)
    for name in "abc":
        place(kv, name, [ord(name)] * 4)
    for name in "bca":
        kv.release(name)
    kv.place("z", [], 0, 8)  # the never used one and b's
    known = [n for n in "abc" if kv.lookup(kv.chain().extend([ord(n)] * 4), 5)]
    assert known == ["a", "c"]


def test_hits_in_the_free_list_do_not_count_as_room():
    kv = make(num_blocks=4)
    place(kv, "a", list(range(8)))
    kv.release("a")
    kv.place("b", [], 0, 4)
    hashes = kv.chain().extend(list(range(16)))
    assert kv.num_free_blocks == 3
    assert not kv.can_place(hashes, 2, 16)
    assert kv.can_place(hashes, 2, 12) and not kv.can_place(hashes, 2, 12, spare=1)


def test_grow_gives_only_what_is_missing():
    kv = make(num_blocks=3)
    _, ids = place(kv, "a", [1, 2, 3])
    assert kv.grow("a", 4) == [] and kv.capacity("a") == 4
    added = kv.grow("a", 5)
    assert len(added) == 1 and kv.block_ids("a") == ids + added
    assert kv.can_grow("a", 12) and not kv.can_grow("a", 13)
    with pytest.raises(EngineError, match="2 KV blocks were asked for and 1 are free"):
        kv.grow("a", 16)


def test_failed_step_takes_back_its_promises_and_names_the_readers():
    kv = make(num_blocks=16)
    place(kv, "old", [7] * 4, step=1)
    kv.confirm_step(1)
    place(kv, "writer", list(range(9)), step=2)
    place(kv, "reader", list(range(10)), step=2)
    place(kv, "later", list(range(20, 29)), step=3)
    place(kv, "old-reader", [7] * 5, step=3)
    assert kv.withdraw_from(2) == ["reader"]
    kv.check_integrity()
    assert kv.lookup(kv.chain().extend(list(range(8))), 9) == 0
    assert kv.lookup(kv.chain().extend([7] * 4), 5) == 1


def test_confirmed_promises_stay_and_reused_blocks_are_not_withdrawn():
    kv = make(num_blocks=2)
    place(kv, "a", list(range(8)), step=1)
    kv.release("a")
    place(kv, "b", list(range(50, 58)), step=2)  # evicts a's
    kv.confirm_step(2)
    assert kv.withdraw_from(1) == []
    assert kv.lookup(kv.chain().extend(list(range(50, 58))), 9) == 2
    kv.check_integrity()


def test_a_withdrawn_writer_publishes_again():
    kv = make()
    hashes = kv.chain().extend(list(range(8)))
    kv.place("a", hashes, 0, 8)
    kv.publish("a", hashes, 2, 5)
    assert kv.withdraw_from(4) == []
    kv.publish("a", hashes, 2, 6)
    assert kv.lookup(hashes, 9) == 2


def test_off_means_off():
    kv = make(enable_prefix_caching=False)
    place(kv, "a", list(range(8)))
    assert place(kv, "b", list(range(9)))[0] == 0 and kv.pool.num_hashed == 0


def test_reset_is_refused_while_in_use():
    kv = make()
    place(kv, "a", list(range(8)), step=3)
    assert not kv.reset_prefix_cache()
    kv.release("a")
    assert kv.reset_prefix_cache()
    assert kv.lookup(kv.chain().extend(list(range(8))), 9) == 0
    kv.confirm_step(3)
    kv.check_integrity()


def test_events_replay_to_the_set_of_findable_blocks():
    known: set[bytes] = set()

    def listen(event: BlockEvent):
        if event.kind == "stored":
            known.add(event.hash)
        elif event.kind == "removed":
            known.remove(event.hash)
        else:
            known.clear()

    kv, rng = make(num_blocks=6, on_event=listen), random.Random(1)
    for i in range(200):
        place(kv, f"r{i}", [rng.randrange(2) for _ in range(rng.randint(1, 16))], step=i)
        if rng.random() < 0.1:
            kv.withdraw_from(i)
        else:
            kv.confirm_step(i)
        kv.release(f"r{i}")
        assert len(known) == kv.pool.num_hashed
        assert all(kv.pool.find(h) for h in known)
    kv.reset_prefix_cache()
    assert not known


@pytest.mark.parametrize("seed", range(6))
def test_random_use_keeps_every_block_accounted_for(seed):
    rng = random.Random(seed)
    kv = make(num_blocks=rng.randint(4, 30), block_size=rng.choice([1, 2, 5]))
    live: dict[str, tuple[list[int], object]] = {}
    for step in range(400):
        tokens = [rng.randrange(2) for _ in range(rng.randint(1, 25))]
        chain = kv.chain(rng.choice([None, "s"]))
        hits = kv.lookup(chain.extend(tokens), len(tokens))
        action = rng.random()
        if action < 0.5 and kv.can_place(chain.hashes, hits, len(tokens)):
            ids = kv.place(f"r{step}", chain.hashes, hits, len(tokens))
            assert len(ids) == kv.spec.blocks_for(len(tokens))
            kv.publish(f"r{step}", chain.hashes, rng.randint(0, len(chain.hashes)), step)
            live[f"r{step}"] = (tokens, chain)
        elif action < 0.7 and live:
            name = rng.choice(sorted(live))
            tokens, chain = live[name]
            tokens = tokens + [rng.randrange(2)] * rng.randint(1, 5)
            if kv.can_grow(name, len(tokens)):
                kv.grow(name, len(tokens))
                kv.publish(name, chain.extend(tokens), len(chain.hashes), step)
                live[name] = (tokens, chain)
        elif live:
            name = rng.choice(sorted(live))
            kv.release(name)
            del live[name]
        if rng.random() < 0.1:
            for name in kv.withdraw_from(step - rng.randint(0, 2)):
                kv.release(name)
                del live[name]
        elif rng.random() < 0.7:
            kv.confirm_step(step)
        kv.check_integrity()


def test_the_audit_sees_damage():
    for damage in (
        lambda kv: setattr(kv.pool.blocks[0], "ref_count", 5),
        lambda kv: setattr(kv.pool, "num_free", 1),
        lambda kv: setattr(kv.pool.blocks[0], "hash", b"x"),
        lambda kv: setattr(kv.pool.blocks[0], "pending_step", 9),
        lambda kv: kv._tables["a"].blocks.append(kv._tables["a"].blocks[0]),
        lambda kv: setattr(kv.pool._ends.next.next, "prev", kv.pool._ends),
    ):
        kv = make()
        place(kv, "a", list(range(9)))
        damage(kv)
        with pytest.raises(EngineError, match="KV blocks are inconsistent"):
            kv.check_integrity()


def test_sizes_are_checked():
    with pytest.raises(ConfigError, match="0 blocks"):
        KVSpec(0, 16)
    with pytest.raises(ConfigError, match="block-size"):
        KVSpec(4, 0)
