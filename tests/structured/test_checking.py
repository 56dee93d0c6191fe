"""Grammars that crash or hang a native library end a helper, not us."""

import threading
import time

import pytest

from kvasir.errors import UserError
from kvasir.structured.checking import MAX_HELPERS, GrammarChecker
from kvasir.structured.formats import Grammar, JsonSchema, Regex, encode


@pytest.fixture(scope="module")
def checker() -> GrammarChecker:
    return GrammarChecker(timeout_s=1)


def chain(length: int) -> str:
    """Rules that name each other, deep enough to overrun a stack that follows them."""
    rules = [f'r{i}: "a" r{i + 1}' for i in range(length)]
    return encode(Grammar("\n".join(["start: r0", *rules, f'r{length}: "b"'])))


SLOW = encode(JsonSchema({"type": "integer", "multipleOf": 99999989}))
GOOD = encode(Regex("[a-z]+"))


def test_good_and_bad(checker: GrammarChecker) -> None:
    assert not checker.knows(GOOD)
    checker.check(GOOD)
    assert checker.knows(GOOD)
    for _ in range(2):
        with pytest.raises(UserError, match="unclosed group") as caught:
            checker.check(encode(Regex("(a")))
        assert caught.value.param == "structured_outputs"


def test_it_is_remembered(checker: GrammarChecker) -> None:
    checker.check(GOOD)
    started = time.perf_counter()
    for _ in range(100):
        checker.check(GOOD)
    assert time.perf_counter() - started < 0.1


def test_what_hangs(checker: GrammarChecker) -> None:
    with pytest.raises(UserError, match="more than 1 s"):
        checker.check(SLOW)
    checker.check(encode(Regex("after a hang")))


def test_what_crashes(checker: GrammarChecker) -> None:
    with pytest.raises(UserError, match="nested too deeply"):
        checker.check(chain(30_000))
    checker.check(encode(Regex("after a crash")))


def test_others_go_on_meanwhile(checker: GrammarChecker) -> None:
    assert MAX_HELPERS > 1
    verdicts: list[str] = []

    def hang() -> None:
        with pytest.raises(UserError) as caught:
            checker.check(SLOW + " ")
        verdicts.append(caught.value.message)

    slow = threading.Thread(target=hang)
    slow.start()
    time.sleep(0.1)
    checker.check(encode(Regex("while another one hangs")))
    assert slow.is_alive()
    slow.join()
    assert "more than 1 s" in verdicts[0]


def test_helpers_end_with_their_checker() -> None:
    own = GrammarChecker()
    own.check(GOOD)
    helper = own._idle.queue[0]
    del own
    assert helper._process.poll() is not None
