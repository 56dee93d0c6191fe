"""A thought ends when its budget is used up: against a count by hand, over steps, moves and resumptions."""

import pytest
import torch

from kvasir.errors import UserError
from kvasir.messages import ThinkingBudget
from tests.sampling.helpers import Harness, make_request

VOCAB, START, END, WORD = 20, 3, 4, 7


def wanting(*ids: int) -> torch.Tensor:
    """[R, V]: each row would rather write that token."""
    return torch.nn.functional.one_hot(torch.tensor(ids), VOCAB).float() * 9


def budget(n: int, *, inside: bool = False) -> ThinkingBudget:
    return ThinkingBudget(n, END, START, inside)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_begun_by_the_prompt(n: int, temperature: float) -> None:
    h = Harness(VOCAB)
    h.add(make_request(2, [1, START], thinking=budget(n, inside=True), temperature=temperature))
    h.add(make_request(0, [1], temperature=0.0))
    for _ in range(9):
        h.step(wanting(WORD, WORD), [0, 2])
    assert END not in h.tokens[0], "a neighbour thinks as long as it likes"
    outputs = h.tokens[2][2:]
    assert outputs.index(END) == n
    if temperature == 0.0:
        assert outputs == [*[WORD] * n, END, *[WORD] * (8 - n)], "it is made to end once"


@pytest.mark.parametrize("before", [[], [WORD]])
def test_begun_by_the_model(before: list[int]) -> None:
    h = Harness(VOCAB)
    h.add(make_request(1, [1], thinking=budget(2), temperature=0.0))
    for token in [*before, START, *[WORD] * 5]:
        h.step(wanting(token), [1])
    assert h.tokens[1][1:] == [*before, START, WORD, WORD, END, WORD, WORD]


def test_what_ended_by_itself_or_never_began_is_left_alone() -> None:
    h = Harness(VOCAB)
    h.add(make_request(0, [1, START], thinking=budget(3, inside=True), temperature=0.0))
    h.add(make_request(1, [1], thinking=budget(3), temperature=0.0))
    wanted = [[WORD, WORD], [END, WORD], *[[WORD, WORD]] * 2, *[[START, START]] * 6]
    for row in wanted:
        h.step(wanting(*row), [0, 1])
    assert h.tokens[0][2:] == [row[0] for row in wanted]
    assert h.tokens[1][1:] == [row[1] for row in wanted], "a tag far from the beginning is text"


def test_moved_resumed_and_reused_slots() -> None:
    h = Harness(VOCAB)
    h.add(make_request(5, [1, START], thinking=budget(3, inside=True), temperature=0.0))
    h.step(wanting(WORD), [5])
    h.state.move(5, 0)
    h.tokens[0] = h.tokens.pop(5)
    h.add(make_request(5, [1], temperature=0.0))
    for _ in range(3):
        h.step(wanting(WORD, WORD), [0, 5])
    assert h.tokens[0][2:] == [WORD, WORD, WORD, END] and END not in h.tokens[5]
    for outputs, inside in (([WORD, WORD], True), ([START, WORD, WORD], False)):
        h.remove(0)
        h.add(make_request(0, [1], outputs, thinking=budget(3, inside=inside), temperature=0.0))
        for _ in range(3):
            h.step(wanting(WORD), [0])
        assert h.tokens[0][1:] == [*outputs, WORD, END, WORD], "as if it had not been interrupted"
    h.remove(0)
    h.add(make_request(0, [1], temperature=0.0))
    for _ in range(9):
        h.step(wanting(WORD), [0])
    assert END not in h.tokens[0], "the next one in the slot has no budget"


def test_nothing_else_forbids_the_end() -> None:
    h = Harness(VOCAB)
    asked = dict(allowed_token_ids=[WORD], logit_bias={END: -100.0}, bad_words_token_ids=[[END]], temperature=0.0)
    h.add(make_request(0, [1], thinking=budget(1, inside=True), **asked))
    for _ in range(3):
        assert not h.step(wanting(WORD), [0]).errors
    assert h.tokens[0][1:] == [WORD, END, WORD]


def test_ids_and_budgets_are_checked() -> None:
    with pytest.raises(UserError, match="between 0"):
        budget(-1)
    with pytest.raises(UserError, match=f"token id {VOCAB}"):
        Harness(VOCAB).add(make_request(0, [1], thinking=ThinkingBudget(1, VOCAB)))
