"""Stop strings found in pieces equal those found in the whole text."""

import random

import pytest

from kvasir.tokenizer import StopChecker


def naive(text: str, stop: list[str], include: bool) -> tuple[str, str | None]:
    """The match that ends first, the longest of those; by searching every prefix."""
    for end in range(1, len(text) + 1):
        hits = [s for s in stop if text[:end].endswith(s)]
        if hits:
            found = max(hits, key=len)
            return text[: end if include else end - len(found)], found
    return text, None


def pieces(text: str, rng: random.Random) -> list[str]:
    out = []
    while text:
        n = rng.randrange(1, 5)
        out.append(text[:n])
        text = text[n:]
    return out


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("include", [False, True])
def test_any_split_equals_whole_text_search(seed: int, include: bool) -> None:
    rng = random.Random(seed)
    for _ in range(700):
        letters = "ab" if rng.random() < 0.5 else "abcdé👍"
        stop = ["".join(rng.choices(letters, k=rng.randrange(1, 7))) for _ in range(rng.randrange(1, 5))]
        text = "".join(rng.choices(letters, k=rng.randrange(30)))
        checker, shown, read = StopChecker(stop, include), "", ""
        for piece in pieces(text, rng):
            shown += checker.push(piece)
            read += piece
            if checker.matched is None and not include:  # held back: just what may still be a stop string
                begun = [k for s in stop for k in range(1, len(s)) if read.endswith(s[:k])]
                assert shown == read[: len(read) - max(begun, default=0)]
        shown += checker.finish()
        assert (shown, checker.matched) == naive(text, stop, include)


def test_text_is_held_back_only_while_it_can_match() -> None:
    checker = StopChecker(["</end>"])
    assert [checker.push(p) for p in ("a</e", "n", "x", "<", "/end>", "b")] == ["a", "", "</enx", "", "", ""]
    assert checker.matched == "</end>"
    assert checker.finish() == ""


def test_a_text_that_ends_releases_what_was_held() -> None:
    checker = StopChecker(["stop"])
    assert checker.push("do not sto") == "do not "
    assert checker.finish() == "sto"


def test_overlapping_begins() -> None:
    checker = StopChecker(["aab"])
    assert checker.push("aaa") == "a"
    assert checker.push("ab") == "a"
    assert checker.matched == "aab"


def test_unarmed_matches_do_not_count_but_begins_do() -> None:
    checker = StopChecker(["xy"])
    assert checker.push("axybx", armed=False) == "axyb"
    assert checker.push("y") == ""
    assert checker.matched == "xy"


def test_long_hostile_stop_strings_stay_cheap() -> None:
    """Work per letter does not grow with the stop string: 64 strings of 1,024 letters that nearly match."""
    checker = StopChecker(["a" * 1023 + chr(200 + i) for i in range(64)])
    shown = "".join(checker.push("aaaa") for _ in range(500))
    assert shown + checker.finish() == "a" * 2000
