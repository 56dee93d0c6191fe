"""Which core a request goes to."""

import random

from kvasir.engine import routing
from kvasir.engine.routing import CHUNK_TOKENS, Router

UP = [0, 1, 2, 3]


def prompt(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(1000), k=length)


def test_the_least_loaded_gets_what_nobody_knows() -> None:
    router = Router(4)
    assert router.choose(prompt(0, 200), None, [3, 1, 2, 5], UP) == 1
    assert router.choose(prompt(1, 200), None, [3, 9, 2, 5], UP) == 2
    taken = [router.choose(prompt(i, 10), None, [0, 0, 0, 0], UP) for i in range(8)]
    assert sorted(taken) == [0, 0, 1, 1, 2, 2, 3, 3], "equals take turns"


def test_a_known_beginning_goes_where_it_was() -> None:
    router = Router(4)
    shared = prompt(0, 4 * CHUNK_TOKENS)
    first = router.choose(shared + prompt(1, 50), None, [1, 0, 1, 1], UP)
    assert first == 1
    loads = [0, 3, 0, 0]
    assert router.choose(shared + prompt(2, 90), None, loads, UP) == 1
    assert router.choose(shared[:-1] + prompt(2, 90), None, loads, UP) == 1, "the first three chunks are the same"
    assert router.choose(shared + prompt(2, 90), "salt", loads, UP) != 1, "another salt shares nothing"
    assert router.choose(prompt(7, 300), None, loads, UP) != 1


def test_the_longest_beginning_decides() -> None:
    router = Router(2)
    system, chat = prompt(0, CHUNK_TOKENS), prompt(1, CHUNK_TOKENS)
    assert router.choose(system + prompt(9, 70), None, [0, 1], [0, 1]) == 0
    assert router.choose(system + chat, None, [9, 1], [0, 1]) == 1, "the first is too busy"
    assert router.choose(system + chat + prompt(5, 30), None, [0, 1], [0, 1]) == 1


def test_one_popular_prompt_does_not_drown_a_core() -> None:
    router, loads = Router(4), [0.0] * 4
    for _ in range(400):
        loads[router.choose(prompt(0, 500), None, loads, UP)] += 1
    assert max(loads) <= 1.25 * min(loads) + 5 and sum(loads) == 400


def test_cores_that_are_down_get_nothing_while_another_is_up() -> None:
    router = Router(3)
    known = prompt(0, 200)
    assert router.choose(known, None, [0, 1, 1], [0, 1, 2]) == 0
    assert router.choose(known, None, [0, 1, 1], [1, 2]) in (1, 2)


def test_what_a_core_forgot_is_forgotten() -> None:
    router = Router(2)
    known = prompt(0, 200)
    core = router.choose(known, None, [0, 0], [0, 1])
    router.forget(core)
    loads = [0.0, 0.0]
    loads[core] = 2
    assert router.choose(known, None, loads, [0, 1]) == 1 - core


def test_memory_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(routing, "MAX_REMEMBERED", 100)
    router = Router(2)
    for i in range(50):
        router.choose(prompt(i, 10 * CHUNK_TOKENS), None, [0, 0], [0, 1])
    assert len(router._core_of) == 100
    router.choose(prompt(0, 10**6), None, [0, 0], [0, 1])
    assert len(router._core_of) == 100
