"""A tokenizer's tokens as bytes: what a grammar counts is what the reader of the answer sees."""

import json
import random

import pytest

from kvasir.errors import ConfigError
from kvasir.structured.formats import ConstString, Format, JsonSchema, Regex
from kvasir.structured.guidance import GuidanceBackend
from kvasir.structured.vocabulary import Vocabulary, read_vocabulary
from kvasir.testing.byte_tokenizer import ByteTokenizer
from kvasir.tokenizer import HfTokenizer
from tests.tokenizer.conftest import BUILDERS

EOS = 1
FORMATS: list[Format] = [
    JsonSchema({"const": "the quick <|tool|> fox"}),
    JsonSchema({"enum": ["süße Äpfel", "天气 👍🏽"]}),
    Regex("</s>the[0-9]{2}\n{2}"),
    Regex("the (quick )?[a-z]{3}"),
]
BYTES = [name for name in BUILDERS if name.startswith("byte")]
WAYS = [(name, fmt) for name in BYTES for fmt in FORMATS]
WAYS += [(name, FORMATS[-1]) for name in BUILDERS if name.startswith("metaspace")]  # cannot spell the others


def walked(vocabulary: Vocabulary, fmt: Format, seed: int) -> list[int]:
    backend = GuidanceBackend(vocabulary)
    automaton, dice, ids = backend.compile(fmt).start(), random.Random(seed), []
    while len(ids) < 200:
        words, (error,) = backend.fill([automaton])
        assert error is None
        token = dice.choice([i for i in range(len(vocabulary.tokens)) if words[i >> 3] >> (i & 7) & 1])
        automaton.advance([token])
        if automaton.ended:
            return ids
        ids.append(token)
    raise AssertionError("no end")


@pytest.mark.parametrize(("name", "fmt"), WAYS)
def test_text_is_what_the_grammar_counted(name: str, fmt: Format) -> None:
    tokenizer = BUILDERS[name]()
    vocabulary = read_vocabulary(tokenizer, len(tokenizer) + 5, [EOS])
    before = tokenizer.encode("the", add_special_tokens=False)
    for seed in range(3):
        ids = walked(vocabulary, fmt, seed)
        assert not set(ids) & set(vocabulary.special_ids)
        spelled = b"".join(vocabulary.tokens[i] for i in ids).decode()
        if isinstance(fmt, JsonSchema):
            assert json.loads(spelled) in [fmt.json_schema.get("const"), *fmt.json_schema.get("enum", [])]
        assert tokenizer.decode([*before, *ids]) == tokenizer.decode(before) + spelled


def test_what_it_knows_of_a_tokenizer() -> None:
    tokenizer = BUILDERS["byte-level"]()
    vocabulary = read_vocabulary(tokenizer, len(tokenizer) + 5, [EOS])
    assert len(vocabulary.tokens) == len(tokenizer) + 5 and vocabulary.tokens[-5:] == [b""] * 5
    assert vocabulary.specials == {"<s>": 0, "</s>": 1, "<unk>": 2, "<|tool|>": 3}
    assert vocabulary.encode("the quick") == tokenizer.encode("the quick", add_special_tokens=False)
    assert not set(vocabulary.encode("a </s>")) & set(vocabulary.special_ids)
    cut = read_vocabulary(tokenizer, 100, [EOS])
    assert len(cut.tokens) == 100 and max(cut.special_ids) < 100


def test_special_tokens_by_their_text() -> None:
    tokenizer = BUILDERS["byte-level"]()
    vocabulary = read_vocabulary(tokenizer, len(tokenizer), [EOS])
    assert walked(vocabulary, ConstString("<|tool|>"), 0) == [3]


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="end-of-sequence"):
        read_vocabulary(ByteTokenizer(), 261, [])
    import tokenizers

    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    backend.decoder = tokenizers.decoders.CTC()
    with pytest.raises(ConfigError, match="decoder is known"):
        read_vocabulary(HfTokenizer(backend), 1, [0])
