"""Ids, text and special tokens equal transformers' for folders of every layout in use."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvasir.errors import ConfigError
from kvasir.tokenizer import HfTokenizer, get_tokenizer

CASES: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "plain": ("byte-level", {"tokenizer_config.json": {"eos_token": "</s>", "bos_token": "<s>"}}),
    "no-config": ("byte-fallback", {}),
    "config-adds-tokens": (
        "byte-level",
        {
            "tokenizer_config.json": {
                "eos_token": "<|new_end|>",
                "pad_token": {"__type": "AddedToken", "content": "<pad>", "lstrip": True, "normalized": False},
                "additional_special_tokens": ["<|tool|>", "<|img|>"],
                "model_max_length": 4096,
            }
        },
    ),
    "config-changes-tokens": (
        "byte-level",
        {
            "tokenizer_config.json": {
                "added_tokens_decoder": {
                    "0": {"content": "<s>", "special": True, "normalized": False},
                    "401": {"content": "<think>", "special": True, "normalized": False, "rstrip": True},
                },
                "bos_token": "<s>",
                "image_token": "<|img|>",
            }
        },
    ),
    "side-files": (
        "byte-fallback",
        {
            "tokenizer_config.json": {"model_max_length": 1000000000000000019884624838656},
            "special_tokens_map.json": {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}},
            "added_tokens.json": {"<extra>": 400},
        },
    ),
    "cleans-up": ("wordpiece", {"tokenizer_config.json": {"clean_up_tokenization_spaces": True, "sep_token": "</s>"}}),
    "bpe-does-not-clean-up": ("byte-level", {"tokenizer_config.json": {"clean_up_tokenization_spaces": True}}),
    "splits-specials": ("byte-level", {"tokenizer_config.json": {"split_special_tokens": True, "eos_token": "</s>"}}),
    "metaspace": ("metaspace-first", {"tokenizer_config.json": {"unk_token": "<unk>"}}),
}


def write(folder: Path, tokenizer: HfTokenizer, files: dict[str, dict[str, Any]]) -> Path:
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    for name, data in files.items():
        (folder / name).write_text(json.dumps(data))
    if files:
        config = folder / "tokenizer_config.json"
        data = json.loads(config.read_text()) if config.is_file() else {}
        config.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **data}))
    return folder


def oracle(folder: Path) -> Any:
    """What AutoTokenizer would pick for these folders; importing that one costs ten seconds more."""
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast.from_pretrained(str(folder))


@pytest.mark.parametrize("case", sorted(CASES))
def test_equals_transformers(case: str, tmp_path: Path, corpus: list[str], build: Callable[[str], HfTokenizer]) -> None:
    family, files = CASES[case]
    folder = write(tmp_path, build(family), files)
    ours, theirs = get_tokenizer(folder), oracle(folder)
    rng = random.Random(case)
    texts = [*corpus[:4], "", " ", "a <think>  b</s> <|tool|><|img|> x <extra>y<|new_end|>"]
    texts += ["".join(rng.choices(corpus[0] + corpus[3] + " <s>\n", k=30)) for _ in range(30)]
    for text in texts:
        for special in (True, False):
            assert ours.encode(text, special) == theirs(text, add_special_tokens=special)["input_ids"], text
    assert ours.encode_batch(texts) == [ours.encode(text) for text in texts]
    for _ in range(60):
        ids = [rng.randrange(len(ours)) for _ in range(rng.randrange(30))]
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert (len(ours), ours.vocab_size) == (len(theirs), theirs.vocab_size)
    assert sorted(ours.all_special_ids) == sorted(set(theirs.all_special_ids))
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.convert_ids_to_tokens(list(range(20))) == theirs.convert_ids_to_tokens(list(range(20)))
    assert (ours.max_len or 10**30) == pytest.approx(theirs.model_max_length)


def test_bos_that_only_the_config_asks_for(tmp_path: Path, build: Callable[[str], HfTokenizer]) -> None:
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": True}
    for family in ("byte-level", "byte-fallback"):  # the second's post-processor adds it already
        tokenizer = get_tokenizer(write(tmp_path, build(family), {"tokenizer_config.json": config}))
        ids = tokenizer.encode("fox")
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer.encode("fox", add_special_tokens=False) == ids[1:-1]
        assert tokenizer.encode_batch(["fox"]) == [ids]


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path, build: Callable[[str], HfTokenizer]) -> None:
    tokenizer = build("byte-level")
    tokenizer.backend.enable_truncation(3)
    tokenizer.backend.enable_padding(length=50)
    folder = write(tmp_path, tokenizer, {})
    assert 3 < len(get_tokenizer(folder).encode("The quick brown fox jumps")) < 50


def test_no_tokenizer_json_says_what_is_supported(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"no tokenizer\.json \(found: tokenizer\.model\).*save_pretrained"):
        get_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        get_tokenizer(tmp_path / "nowhere" / "deep")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        get_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")


def test_chat_templates_of_every_place(tmp_path: Path, build: Callable[[str], HfTokenizer]) -> None:
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T{{ tools|length }}"}]
    folder = write(tmp_path, build("byte-level"), {"tokenizer_config.json": {"chat_template": named}})
    chat = [{"role": "user", "content": "hi"}]
    tokenizer = get_tokenizer(folder)
    assert tokenizer.apply_chat_template(chat) == "D"
    assert tokenizer.apply_chat_template(chat, tools=[{}]) == "T1"
    assert tokenizer.apply_chat_template(chat, chat_template="tool_use", tools=[]) == "T0"
    assert tokenizer.apply_chat_template(chat, chat_template="{{ messages[0].content }}!") == "hi!"
    assert get_tokenizer(folder, chat_template="{{ 1 }}").chat_template == "{{ 1 }}"
    (folder / "chat_template.jinja").write_text("F")  # files win over the config's entry
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("R")
    tokenizer = get_tokenizer(folder)
    assert tokenizer.apply_chat_template(chat) == oracle(folder).apply_chat_template(chat, tokenize=False) == "F"
    assert tokenizer.apply_chat_template(chat, chat_template="rag") == "R"
    with pytest.raises(ConfigError, match="neither a file nor a template"):
        get_tokenizer(folder, chat_template="missing-file")
