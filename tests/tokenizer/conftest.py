"""Small tokenizers of every family, built here: nothing is downloaded."""

from collections.abc import Callable

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from kvasir.tokenizer import HfTokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Don't we all? They've gone, I'm here!",
    "Ein Ritter von großer Würde aß süße Äpfel. L'été à la plage, c'est chouette.",
    "def f(x):\n\treturn x ** 2  # squares\n\n\nprint(f(12), 'n't')",
    "你好，世界。今天天气很好。 안녕하세요 세계 👍🏽 👩‍👩‍👧 🎉",
] * 3
SPECIALS = ["<s>", "</s>", "<unk>", "<|tool|>"]


def _added(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken(" spaced ", special=False)])
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _added(tokenizer)


def byte_fallback(strips: bool = True) -> Tokenizer:
    """As Llama 2 (strips) and Gemma (keeps the first blank)."""
    letters = sorted(set("".join(CORPUS[:2])) - {" "})
    words = ["▁", "▁the", "▁quick", "fox", "▁a", "er", "▁▁"]
    tokens = [*SPECIALS, *(f"<0x{b:02X}>" for b in range(256)), *letters, *words]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strips else steps)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return _added(tokenizer)


def metaspace(scheme: str = "always") -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _added(tokenizer)


def wordpiece(cleanup: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=cleanup)
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _added(tokenizer)


def words() -> Tokenizer:
    """No decoder at all: tokens are joined by blanks."""
    vocab = {word: i for i, word in enumerate([*SPECIALS, "the", "quick", "fox", ".", "it", "n't", "'s"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _added(tokenizer)


BUILDERS: dict[str, Callable[[], HfTokenizer]] = {
    "byte-level": lambda: HfTokenizer(byte_level()),
    "byte-fallback": lambda: HfTokenizer(byte_fallback()),
    "byte-fallback-unstripped": lambda: HfTokenizer(byte_fallback(strips=False)),
    "metaspace-always": lambda: HfTokenizer(metaspace()),
    "metaspace-first": lambda: HfTokenizer(metaspace("first")),
    "metaspace-never": lambda: HfTokenizer(metaspace("never")),
    "wordpiece": lambda: HfTokenizer(wordpiece(cleanup=False)),
    "wordpiece-cleanup": lambda: HfTokenizer(wordpiece()),
    "wordpiece-cleaned-text": lambda: HfTokenizer(wordpiece(cleanup=False), {"clean_up_tokenization_spaces": True}),
    "words": lambda: HfTokenizer(words()),
    "words-cleaned-text": lambda: HfTokenizer(words(), {"clean_up_tokenization_spaces": True}),
}


@pytest.fixture(scope="session", params=sorted(BUILDERS))
def any_tokenizer(request: pytest.FixtureRequest) -> HfTokenizer:
    return BUILDERS[request.param]()


@pytest.fixture(scope="session")
def byte_level_tokenizer() -> HfTokenizer:
    return BUILDERS["byte-level"]()


@pytest.fixture(scope="session")
def fallback_tokenizer() -> HfTokenizer:
    return BUILDERS["byte-fallback"]()


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return CORPUS


@pytest.fixture(scope="session")
def build() -> Callable[[str], HfTokenizer]:
    """A fresh tokenizer of a family, by name."""
    return lambda name: BUILDERS[name]()
