"""Builds the tokenizer: whole template words, and single letters and digits for all else.

The BPE model has no merges. With ``ignore_merges`` a piece that is in the vocabulary
is one token and any other piece falls to its bytes, so words that the model has to
spell, reverse or copy are seen letter by letter without a second vocabulary.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import regex
from chats import Composer, segments
from tool_skills import make_use
from words import CAPITALS, COLORS, COMMON_WORDS, FIRST_NAMES

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
TAGS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<tools>",
    "</tools>",
)
PIECES = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"
PIECES_FILE = Path(__file__).with_name("pieces.json")
VOCAB_LIMIT = 1024

CHAT_TEMPLATE = """\
{%- macro text_of(content) -%}
{%- if content is string -%}{{- content -}}
{%- elif content is not none and content is defined -%}
{%- for part in content -%}{%- if part.type == 'text' -%}{{- part.text -}}{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(system='', rest=messages) -%}
{%- if messages and messages[0].role in ('system', 'developer') -%}
{%- set ns.system = text_of(messages[0].content) -%}
{%- set ns.rest = messages[1:] -%}
{%- endif -%}
{%- if ns.system or tools -%}
{{- '<|im_start|>system\\n' + ns.system -}}
{%- if tools -%}
{{- '\\n\\n' if ns.system else '' -}}
{{- '# Tools\\n<tools>' -}}
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{{- '\\n{"name": ' + (function.name | tojson) + ', "description": ' + (function.description | default('', true) | tojson) + ', "parameters": {' -}}
{%- set parameters = function.parameters if function.parameters else {} -%}
{%- for key, value in (parameters.properties or {}).items() -%}
{{- (key | tojson) + ': ' + (value.type | default('any') | tojson) -}}
{%- if not loop.last -%}{{- ', ' -}}{%- endif -%}
{%- endfor -%}
{{- '}}' -}}
{%- endfor -%}
{{- '\\n</tools>' -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in ns.rest -%}
{%- if message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' + text_of(message.content) -}}
{%- for call in message.tool_calls or [] -%}
{%- set function = call.function if call.function is defined else call -%}
{%- if not loop.first or text_of(message.content) -%}{{- '\\n' -}}{%- endif -%}
{{- '<tool_call>\\n{"name": ' + (function.name | tojson) + ', "arguments": ' -}}
{{- function.arguments if function.arguments is string else function.arguments | tojson -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- elif message.role == 'tool' -%}
{%- if loop.first or loop.previtem.role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\\n<tool_response>\\n' + text_of(message.content) + '\\n</tool_response>' -}}
{%- if loop.last or loop.nextitem.role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- else -%}
{{- '<|im_start|>' + message.role + '\\n' + text_of(message.content) + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def byte_alphabet() -> list[str]:
    """The printable stand-in for each of the 256 bytes, as GPT-2 defined it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    for offset, byte in enumerate(b for b in range(256) if b not in table):
        table[byte] = chr(256 + offset)
    return [table[byte] for byte in range(256)]


_ALPHABET = byte_alphabet()


def _visible(piece: str) -> str:
    return "".join(_ALPHABET[byte] for byte in piece.encode())


def frequent_pieces(limit: int) -> list[str]:
    """Pieces common in the training text, without the words that are to be spelled."""
    rng = random.Random(7)
    composer = Composer(rng)
    split = regex.compile(PIECES)
    tags = regex.compile("|".join(map(regex.escape, (*SPECIAL_TOKENS, *TAGS))))
    counts: Counter[str] = Counter()
    for _ in range(3000):
        messages, tools = composer.chat(len, 1500)
        for text, _flag in segments(messages, tools):
            for part in tags.split(text):
                counts.update(split.findall(part))
    for _ in range(4000):
        use = make_use(rng)
        counts.update(split.findall(use.question + " " + use.answer))
    spelled = {*COMMON_WORDS, *FIRST_NAMES}
    spelled |= {word.capitalize() for word in spelled}
    spelled -= {"color", "table", "school"}
    keep = set()
    for names in (CAPITALS, CAPITALS.values(), COLORS):
        keep |= {prefix + name for name in names for prefix in ("", " ")}
    ranked = [piece for piece, count in counts.most_common() if count >= 30 and piece.strip() not in spelled]
    # A lone letter is always the same token, also after a space: it is something to count or copy.
    common = [piece for piece in ranked if len(piece.strip()) > 1 and piece not in keep]
    return sorted(keep) + common[: limit - len(keep)]


def build_vocab() -> dict[str, int]:
    """Special tokens first, then the bytes, then whole pieces.

    The pieces were counted once and are kept in a file: trained weights are bound to them,
    while the training text may still change.
    """
    tokens = [*SPECIAL_TOKENS, *TAGS, *_ALPHABET]
    tokens += [_visible(piece) for piece in json.loads(PIECES_FILE.read_text(encoding="utf-8"))]
    tokens = list(dict.fromkeys(tokens))
    # The model has exactly VOCAB_LIMIT outputs, and every one of them must decode to something.
    tokens += [f"<|reserved_{number}|>" for number in range(VOCAB_LIMIT - len(tokens))]
    return {token: index for index, token in enumerate(tokens)}


def build_tokenizer(vocab: dict[str, int]) -> dict[str, Any]:
    """The content of tokenizer.json."""
    reserved = [token for token in vocab if token.startswith("<|reserved_")]
    added = [
        {
            "id": vocab[token],
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token not in TAGS,
        }
        for token in (*SPECIAL_TOKENS, *TAGS, *reserved)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": vocab,
            "merges": [],
        },
    }


class FastEncoder:
    """The same encoding in plain Python with a cache of pieces: much quicker on this text."""

    def __init__(self, vocab: dict[str, int]) -> None:
        self.vocab = vocab
        self._tags = regex.compile("(" + "|".join(map(regex.escape, (*SPECIAL_TOKENS, *TAGS))) + ")")
        self._pieces = regex.compile(PIECES)
        self._piece = lru_cache(maxsize=200_000)(self._encode_piece)

    def _encode_piece(self, piece: str) -> list[int]:
        visible = _visible(piece)
        whole = self.vocab.get(visible)
        return [whole] if whole is not None else [self.vocab[char] for char in visible]

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = []
        for index, part in enumerate(self._tags.split(text)):
            if index % 2:
                ids.append(self.vocab[part])
            else:
                for piece in self._pieces.findall(part):
                    ids += self._piece(piece)
        return ids


def write(folder: Path) -> None:
    """Write the tokenizer files into a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(build_tokenizer(build_vocab()), ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(content + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "bos_token": None,
        "unk_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_encoder(folder: Path) -> FastEncoder:
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return FastEncoder(data["model"]["vocab"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--recount", action="store_true", help="choose the pieces anew; asks for training from scratch")
    args = parser.parse_args()
    if args.recount:
        room = VOCAB_LIMIT - len(SPECIAL_TOKENS) - len(TAGS) - len(_ALPHABET)
        PIECES_FILE.write_text(json.dumps(frequent_pieces(room), ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    for target in args.folder:
        write(target)
