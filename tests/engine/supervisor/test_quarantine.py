"""The search for a request that ends the core: events -> decisions, and a simulated world that it has to clean."""

import random

import pytest

from kvasir.engine.supervisor.quarantine import ALONE_AT_MOST, FRUITLESS_AT_MOST, Quarantine, Ruling

PROMPT = 10


def live(*names: str, at: int = PROMPT) -> dict[str, int]:
    return dict.fromkeys(names, at)


def offered(quarantine: Quarantine, names: str) -> str:
    """Those of `names` (one letter each) that may go to the core."""
    return "".join(name for name in names if quarantine.offer(name))


def crash(quarantine: Quarantine, running: str, names: str) -> Ruling:
    return quarantine.on_death(True, live(*running), live(*names))


# Each row: (requests sent to the first core, those of the crashed step, (event, expected) ...). Events: "crash XY" of a
# step with X and Y, "kill" from outside, "pass XY": X and Y got a token, "end X". Expected: who is sent next.
TABLE = {
    "a lone request that crashes twice is refused": ("a", "a", ("", "a"), ("crash a", "!a")),
    "once is not enough": ("a", "a", ("", "a"), ("pass a", "")),
    "kills from outside are nobody's": ("a", "a", ("", "a"), ("kill", "a"), ("kill", "a"), ("crash a", "!a")),
    "few suspects go alone, the rest of the world waits": ("abc", "bc", ("", "b"), ("pass b", "c"), ("pass c", "a")),
    "the culprit of two": (
        "ab", "ab", ("", "a"), ("pass a", "b"), ("crash b", "b"), ("crash b", "b"),
        ("crash b", "!ba"),
    ),
    "a strike needs a core of one's own": ("ab", "ab", ("", "a"), ("pass a", "b"), ("crash b", "b"), ("pass b", "a")),
    "progress clears, and a later crash starts anew": (
        "ab", "a", ("", "a"), ("crash a", "a"), ("pass a", "b"), ("crash a", "a"), ("crash a", "a"), ("crash a", "!ab"),
    ),
    "many suspects are halved": (
        "abcdef", "abcdef", ("", "abc"), ("pass abc", "def"), ("crash def", "d"), ("pass d", "e"), ("crash e", "e"),
        ("crash e", "e"), ("crash e", "!ef"), ("pass f", "abcd"),
    ),
    "a suspect that leaves makes room": ("abc", "ab", ("", "a"), ("end a", "b"), ("end b", "c")),
    "two culprits": (
        "abc", "abc", ("", "a"), ("crash a", "a"), ("crash a", "!ab"), ("crash b", "b"), ("crash b", "!bc"),
    ),
    "those of the trial that did not run stay suspects": (
        "abcdef", "abcdef", ("", "abc"), ("crash b", "b"), ("crash b", "b"), ("crash b", "!bac"), ("pass ac", "def"),
    ),
    "a crash outside of steps blames nobody": ("ab", "", ("", "ab")),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_table(case: str) -> None:
    sent, running, *events = TABLE[case]
    quarantine, world = Quarantine(), live(*sent)
    assert offered(quarantine, sent) == sent
    ruling = quarantine.on_death(True, {i: world[i] for i in running}, world)
    assert ruling.refused == () and ruling.counts
    for event, expected in events:
        what, _, who = event.partition(" ")
        refused = ""
        if what in ("crash", "kill"):
            ruling = quarantine.on_death(what == "crash", {i: world[i] for i in who}, world)
            refused = "".join(ruling.refused)
            for name in refused:
                del world[name]
        for name in who if what in ("pass", "end") else "":
            if what == "end":
                del world[name]
            else:
                world[name] += 1
        found = quarantine.note(world) if what in ("pass", "end") else [i for i in world if quarantine.offer(i)]
        found = "".join(sorted(found))
        assert (f"!{refused}" if refused else "") + found == expected, event


def test_progress_is_beyond_the_crash_and_not_up_to_it() -> None:
    quarantine = Quarantine()
    offered(quarantine, "ab")
    quarantine.on_death(True, {"a": 14, "b": 14}, {"a": 12, "b": 12})  # two tokens were on their way and are lost
    assert offered(quarantine, "ab") == "a"
    for tokens in (13, 14):
        assert quarantine.note({"a": tokens, "b": 12}) == []
    assert quarantine.note({"a": 15, "b": 12}) == ["b"]


def test_new_requests_wait_while_the_search_is_on_and_are_sent_once() -> None:
    quarantine = Quarantine()
    offered(quarantine, "ab")
    crash(quarantine, "ab", "ab")
    assert offered(quarantine, "ab") == "a"
    assert offered(quarantine, "cd") == ""
    assert offered(quarantine, "a") == "", "it was sent already"
    assert quarantine.note({"a": 11, "b": 10, "c": 10, "d": 10}) == ["b"]
    assert quarantine.note({"a": 11, "b": 11, "c": 10, "d": 10}) == ["c", "d"]
    assert not quarantine.active
    assert offered(quarantine, "e") == "e"


def test_only_the_first_crash_counts_and_is_given_back() -> None:
    quarantine = Quarantine()
    offered(quarantine, "ab")
    assert crash(quarantine, "ab", "ab") == Ruling((), counts=True)
    offered(quarantine, "ab")
    assert crash(quarantine, "a", "ab") == Ruling((), counts=False)
    offered(quarantine, "ab")
    assert crash(quarantine, "a", "ab") == Ruling(("a",), counts=False)


def test_a_core_that_crashes_on_everybody_is_not_blamed_on_everybody_for_ever() -> None:
    quarantine, names = Quarantine(), "abcdefgh"
    refused = 0
    counted = []
    for _ in range(40):
        sent = offered(quarantine, names)
        ruling = crash(quarantine, sent, names)
        names = "".join(name for name in names if name not in ruling.refused)
        refused += len(ruling.refused)
        counted.append(ruling.counts)
        if sum(counted) > 4:
            break
    assert FRUITLESS_AT_MOST <= refused <= FRUITLESS_AT_MOST + 3


@pytest.mark.parametrize("seed", range(60))
def test_a_random_world_loses_its_culprits_and_nobody_else(seed: int) -> None:
    """Requests come, get tokens, end; some end the core at a certain token; cores are killed from outside, too."""
    rng = random.Random(seed)
    deadly = {f"r{i}": PROMPT + rng.randrange(12) for i in rng.sample(range(40), rng.randrange(1, 4))}
    world, core, refused, ended = {}, set(), set(), set()
    quarantine, arrivals = Quarantine(), iter(range(40))
    first_crashes = restarts = 0

    def send(names: list[str]) -> None:
        assert not core & set(names), "sent twice"
        core.update(names)

    for _ in range(3000):
        if rng.random() < 0.3 and (i := next(arrivals, None)) is not None:
            world[f"r{i}"] = PROMPT
            send([f"r{i}"] if quarantine.offer(f"r{i}") else [])
        rows = [name for name in core if name in world and rng.random() < 0.8]
        dead = any(deadly.get(name) == world[name] for name in rows)
        if dead or rng.random() < 0.01:
            lost = rng.randrange(2) if dead else 0  # the front may not have heard of the last tokens
            ruling = quarantine.on_death(dead, {name: world[name] + lost for name in rows}, dict(world))
            restarts, first_crashes = restarts + 1, first_crashes + (dead and ruling.counts)
            refused |= set(ruling.refused)
            for name in ruling.refused:
                del world[name]
            core = set()
            send([name for name in world if quarantine.offer(name)])
        else:
            for name in rows:
                world[name] += 1
                if world[name] > PROMPT + 15 or rng.random() < 0.01:
                    del world[name]
                    ended.add(name)
        send(quarantine.note(dict(world)))
        if not world and len(refused | ended) == 40:
            break
    assert not world and refused | ended == {f"r{i}" for i in range(40)}
    assert refused <= deadly.keys(), "an innocent was refused"
    assert not quarantine.active and quarantine.num_suspects == 0
    assert first_crashes <= 2 * len(deadly)


@pytest.mark.parametrize("count", [1, ALONE_AT_MOST, 64, 256])
def test_restarts_grow_with_the_logarithm(count: int) -> None:
    names = [f"r{i}" for i in range(count)]
    for culprit in random.Random(count).sample(names, min(count, 12)):
        quarantine, restarts = Quarantine(), 0
        world = dict.fromkeys(names, PROMPT)
        core = [name for name in names if quarantine.offer(name)]
        while culprit in world:
            if culprit in core:
                ruling = quarantine.on_death(True, {name: world[name] for name in core}, world)
                restarts += 1
                for name in ruling.refused:
                    del world[name]
                core = [name for name in world if quarantine.offer(name)]
            else:
                for name in core:
                    world[name] += 1
                core += quarantine.note(world)
        assert restarts <= 3 + count.bit_length()
