"""A checkpoint's tokenizer.json behind the `Tokenizer` interface, by way of the `tokenizers` library.

Gives what transformers' AutoTokenizer gives, without importing it (it costs seconds).
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvasir.errors import ConfigError
from kvasir.tokenizer.chat_template import ChatTemplates, render_chat
from kvasir.tokenizer.detokenize import clean_up
from kvasir.tokenizer.files import find_folder, read_json, read_templates, template_from_option
from kvasir.tokenizer.pieces import Pieces, read_decoder

if TYPE_CHECKING:
    import tokenizers

NAMED_SPECIALS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_UNBOUNDED = 10**12  # transformers writes 10**30 where a tokenizer has no limit


def get_tokenizer(path: str | Path, *, revision: str | None = None, chat_template: str | None = None) -> "HfTokenizer":
    """Reads the tokenizer of a checkpoint.

    Args:
        path: folder, or repository id on the hub.
        revision: of the repository.
        chat_template: a file or a template that replaces the checkpoint's own.

    Raises:
        ConfigError: no tokenizer.json, or a file that cannot be read.
    """
    import tokenizers

    folder = find_folder(path, revision)
    file = folder / "tokenizer.json"
    if not file.is_file():
        others = sorted(f.name for f in folder.glob("*") if "token" in f.name or "vocab" in f.name)
        raise ConfigError(
            f"{folder} has no tokenizer.json (found: {', '.join(others) or 'no tokenizer files'}). Kvasir reads "
            "tokenizers in the tokenizer.json format; transformers' save_pretrained converts others to it."
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ConfigError(f"{file} cannot be read: {error}") from error
    config = _full_config(folder)
    templates = read_templates(folder, config)
    if chat_template is not None:
        templates = {"default": template_from_option(chat_template)}
    return HfTokenizer(backend, config, templates)


def _full_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, completed from the older side files when it does not list the added tokens itself."""
    config = read_json(folder, "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config |= read_json(folder, "special_tokens_map.json")
        specials = {_content(config[name]) for name in NAMED_SPECIALS if config.get(name)}
        config["added_tokens_decoder"] = {
            index: {"content": text, "special": text in specials, "normalized": text not in specials}
            for text, index in read_json(folder, "added_tokens.json").items()
        }
    return config


def _content(token: str | dict[str, Any]) -> str:
    return token["content"] if isinstance(token, dict) else token


def _is_token(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and "content" in value)


class HfTokenizer:
    """See `base.Tokenizer`.

    Args:
        backend: `tokenizers.Tokenizer`; taken over (its truncation and padding are switched off).
        config: as in tokenizer_config.json.
        templates: chat templates by name.
    """

    def __init__(
        self,
        backend: "tokenizers.Tokenizer",
        config: dict[str, Any] | None = None,
        templates: dict[str, str] | None = None,
    ):
        config = config or {}
        self.backend = backend
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = bool(config.get("split_special_tokens", False))
        self.templates = ChatTemplates(templates or {})
        extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
        named = {**config, **extra} if isinstance(extra, dict) else config
        more = sorted(k for k in named if k.endswith("_token") and k not in NAMED_SPECIALS)
        self.special_tokens = {k: _content(named[k]) for k in (*NAMED_SPECIALS, *more) if _is_token(named.get(k))}
        self._extra_specials = [] if isinstance(extra, dict) else [_content(token) for token in extra]
        _add_missing(backend, config.get("added_tokens_decoder") or {}, self.all_special_tokens)
        self.bos_token_id = self._special_id("bos_token")
        self.eos_token_id = self._special_id("eos_token")
        limit = config.get("model_max_length")
        self.max_len = int(limit) if isinstance(limit, (int, float)) and limit < _UNBOUNDED else None
        is_bpe = type(backend.model).__name__ == "BPE"
        force = config.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
        self._cleans_up = bool(config.get("clean_up_tokenization_spaces", False)) and (not is_bpe or force)
        self._front, self._back = self._unserved_ends(config)

    def _special_id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self.backend.token_to_id(token)

    def _unserved_ends(self, config: dict[str, Any]) -> tuple[list[int], list[int]]:
        """The begin and end ids that the config asks for and the post-processor does not add."""
        given = self.backend.encode("", add_special_tokens=True).ids
        front = [self.bos_token_id] if config.get("add_bos_token") and self.bos_token_id is not None else []
        back = [self.eos_token_id] if config.get("add_eos_token") and self.eos_token_id is not None else []
        return [i for i in front if i not in given], [i for i in back if i not in given]

    @property
    def all_special_tokens(self) -> list[str]:
        return list(dict.fromkeys([*self.special_tokens.values(), *self._extra_specials]))

    @property
    def all_special_ids(self) -> list[int]:
        ids = (self.backend.token_to_id(token) for token in self.all_special_tokens)
        return [i for i in ids if i is not None]

    @property
    def vocab_size(self) -> int:
        """Without added tokens, as in transformers; `len` counts them all."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    @cached_property
    def _length(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    def __len__(self) -> int:
        return self._length

    def __bool__(self) -> bool:
        return True

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        return [*self._front, *ids, *self._back] if add_special_tokens and (self._front or self._back) else ids

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        rows = [e.ids for e in self.backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)]
        if add_special_tokens and (self._front or self._back):
            return [[*self._front, *ids, *self._back] for ids in rows]
        return rows

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        text = self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return clean_up(text) if self._cleans_up else text

    def id_to_token(self, token_id: int) -> str | None:
        return self.backend.id_to_token(token_id)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        return [self.backend.id_to_token(i) for i in ids]

    def token_to_id(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    @cached_property
    def pieces(self) -> Pieces:
        decoder = self.backend.decoder
        added = self.backend.get_added_tokens_decoder()
        return read_decoder(
            decoder.__getstate__().decode() if decoder is not None else None,
            self.backend.id_to_token,
            special_ids=frozenset(i for i, token in added.items() if token.special),
            added={i: token.content for i, token in added.items()},
            cleans_up=self._cleans_up,
            decode=lambda ids, skip: self.backend.decode(ids, skip_special_tokens=skip),
        )

    @property
    def chat_template(self) -> str | None:
        """The default one; `templates.by_name` has all."""
        return self.templates.by_name.get("default") or next(iter(self.templates.by_name.values()), None)

    def apply_chat_template(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool | str = False,
        chat_template: str | None = None,
        documents: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str:
        """The chat as text. Encode it with `add_special_tokens=False`: the template writes them itself."""
        return render_chat(
            self.templates.choose(chat_template, with_tools=tools is not None),
            messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables={**self.special_tokens, **kwargs},
        )


def _add_missing(backend: "tokenizers.Tokenizer", listed: dict[str, dict[str, Any]], special_tokens: list[str]) -> None:
    """Adds tokens that only the config names, or names with other properties than tokenizer.json."""
    from tokenizers import AddedToken

    known = {repr(token) for token in backend.get_added_tokens_decoder().values()}
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    wanted = []
    for _, entry in sorted(listed.items(), key=lambda item: int(item[0])):
        fields = {k: v for k, v in entry.items() if k in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        token = AddedToken(entry["content"], **fields)
        if repr(token) not in known:
            wanted.append(token)
            present.add(entry["content"])
    for text in special_tokens:
        if text not in present:
            wanted.append(AddedToken(text, special=True))
    if wanted:
        backend.add_tokens(wanted)
