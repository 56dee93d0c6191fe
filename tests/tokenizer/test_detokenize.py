"""A stream's text is the whole decode's text, however the ids were split."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models

from kvasir.testing.byte_tokenizer import ByteTokenizer
from kvasir.tokenizer import HfTokenizer, IncrementalDetokenizer, token_text
from kvasir.tokenizer.detokenize import _Cleaner, clean_up


def stream(tokenizer: HfTokenizer, ids: list[int], rng: random.Random, **options: object) -> str:
    detokenizer = IncrementalDetokenizer(tokenizer, **options)
    parts, at = [], 0
    while at < len(ids):
        step = rng.choice((1, 1, 1, 2, 5))
        parts.append(detokenizer.push(ids[at : at + step]))
        at += step
    return "".join(parts) + detokenizer.finish()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("skip", [True, False])
def test_random_ids(any_tokenizer: HfTokenizer, seed: int, skip: bool) -> None:
    rng = random.Random(seed)
    for _ in range(150):
        ids = [rng.randrange(len(any_tokenizer) + 2) for _ in range(rng.randrange(40))]
        assert stream(any_tokenizer, ids, rng, skip_special_tokens=skip) == any_tokenizer.decode(ids, skip), ids


@pytest.mark.parametrize("seed", range(2))
def test_real_text(any_tokenizer: HfTokenizer, corpus: list[str], seed: int) -> None:
    rng = random.Random(seed)
    for text in corpus:
        ids = any_tokenizer.encode(text)
        assert stream(any_tokenizer, ids, rng) == any_tokenizer.decode(ids)


def test_letters_split_over_tokens_appear_once_whole(byte_level_tokenizer: HfTokenizer) -> None:
    ids = [byte_level_tokenizer.token_to_id(c) for c in "ðŁĳį"]  # the four bytes of a thumb, as letters
    detokenizer = IncrementalDetokenizer(byte_level_tokenizer)
    assert [detokenizer.push([i]) for i in ids] == ["", "", "", "👍"]
    assert detokenizer.push(ids[:3]) == ""
    assert detokenizer.finish() == byte_level_tokenizer.decode(ids[:3]) == "\ufffd"


@pytest.mark.parametrize("seed", range(4))
def test_continues_the_prompt(any_tokenizer: HfTokenizer, corpus: list[str], seed: int) -> None:
    """Text behind a prompt: what the whole decode has beyond the prompt's own."""
    if any_tokenizer.pieces.cleans_up:
        pytest.skip("blanks of the prompt's last word could be removed by the answer's first")
    rng = random.Random(seed)
    compared = 0
    for _ in range(150):
        prompt = any_tokenizer.encode(rng.choice(corpus)[: rng.randrange(1, 60)], add_special_tokens=False)
        prompt = prompt[: rng.randrange(1, len(prompt) + 1)]
        ids = [rng.randrange(len(any_tokenizer)) for _ in range(rng.randrange(20))]
        before, both = any_tokenizer.decode(prompt), any_tokenizer.decode(prompt + ids)
        text = stream(any_tokenizer, ids, rng, prompt_token_ids=prompt)
        if before.endswith("\ufffd") or not both.startswith(before):
            continue
        assert before + text == both, (prompt, ids)
        compared += 1
    assert compared > 50


def test_finishes_a_letter_that_the_prompt_began(
    byte_level_tokenizer: HfTokenizer, fallback_tokenizer: HfTokenizer
) -> None:
    thumb = [byte_level_tokenizer.token_to_id(c) for c in "ðŁĳį"]
    assert IncrementalDetokenizer(byte_level_tokenizer, prompt_token_ids=thumb[:3]).push(thumb[3:]) == "👍"
    fallback = [fallback_tokenizer.token_to_id(f"<0x{b:02X}>") for b in "👍".encode()]
    detokenizer = IncrementalDetokenizer(fallback_tokenizer, prompt_token_ids=fallback[:2])
    assert detokenizer.push(fallback[2:]) + detokenizer.finish() == "👍"


def test_one_bad_byte_spoils_its_run_as_in_the_whole_decode(fallback_tokenizer: HfTokenizer) -> None:
    ids = [fallback_tokenizer.token_to_id(f"<0x{b:02X}>") for b in (*"é".encode(), 0xFF)]
    assert fallback_tokenizer.decode(ids) == "\ufffd" * 3
    assert stream(fallback_tokenizer, ids, random.Random(0)) == "\ufffd" * 3


def test_spaces_between_special_tokens() -> None:
    tokenizer = HfTokenizer(_two_specials())
    ids = [tokenizer.token_to_id(t) for t in ("a", "<x>", "<y>", "a")]
    rng = random.Random(0)
    assert stream(tokenizer, ids, rng, skip_special_tokens=False) == "a <x> <y> a"
    joined = stream(tokenizer, ids, rng, skip_special_tokens=False, spaces_between_special_tokens=False)
    assert joined == "a <x><y> a"


def _two_specials() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer.add_special_tokens(["<x>", "<y>"])
    return tokenizer


@pytest.mark.parametrize("seed", range(3))
def test_unknown_decoder_falls_back_to_windows(seed: int) -> None:
    rng = random.Random(seed)
    vocab = {text: i for i, text in enumerate(["a</w>", "b", "c</w>", "dé</w>", "?"])}
    backend = Tokenizer(models.BPE(vocab, [], unk_token="?"))
    backend.decoder = decoders.Sequence([decoders.Replace("b", "bb"), decoders.Replace("</w>", " ")])
    tokenizer = HfTokenizer(backend)
    assert tokenizer.pieces.kind == "opaque"
    for _ in range(100):
        ids = [rng.randrange(5) for _ in range(rng.randrange(30))]
        assert stream(tokenizer, ids, rng) == tokenizer.decode(ids)


@pytest.mark.parametrize("seed", range(5))
def test_cleaning_of_blanks_does_not_depend_on_the_split(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(400):
        text = "".join(rng.choice((" ", " ", "'", ".", ",", "n", "t", "s", "m", "v", "e", "r", "a")) for _ in range(40))
        cleaner, parts, at = _Cleaner(), [], 0
        while at < len(text):
            step = rng.randrange(1, 6)
            parts.append(cleaner.push(text[at : at + step]))
            at += step
        assert "".join(parts) + cleaner.finish() == clean_up(text)


def test_byte_tokenizer_streams_like_the_others() -> None:
    tokenizer = ByteTokenizer()
    rng = random.Random(1)
    for _ in range(200):
        ids = [rng.randrange(261) for _ in range(30)]
        assert stream(tokenizer, ids, rng) == tokenizer.decode(ids)
        assert stream(tokenizer, ids, rng, skip_special_tokens=False) == tokenizer.decode(ids, False)
    text = "Grüße <eos> 👍"
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text
    assert 257 in tokenizer.encode(text)


def test_token_text_keeps_the_leading_blank(fallback_tokenizer: HfTokenizer) -> None:
    assert token_text(fallback_tokenizer, fallback_tokenizer.token_to_id("▁the")) == " the"
    assert token_text(fallback_tokenizer, fallback_tokenizer.token_to_id("<0xC3>")) == "\ufffd"
