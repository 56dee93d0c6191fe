"""ByteTokenizer: ids 0 to 255 are bytes, a few special tokens follow. No files, and every id has a known text."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from kvasir.tokenizer.chat_template import ChatTemplates, render_chat
from kvasir.tokenizer.pieces import Pieces

SPECIALS = ("<bos>", "<eos>", "<pad>", "<|start|>", "<|end|>")
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


class ByteTokenizer:
    """A `kvasir.tokenizer.Tokenizer` for tests.

    Args:
        add_bos: `encode` puts `<bos>` in front when asked for special tokens.
    """

    bos_token_id = 256
    eos_token_id = 257
    max_len: int | None = None

    def __init__(self, add_bos: bool = False):
        self._add_bos = add_bos
        self._ids = {text: 256 + i for i, text in enumerate(SPECIALS)}
        self._texts = {i: text for text, i in self._ids.items()}
        self.templates = ChatTemplates({"default": TEMPLATE})

    @property
    def vocab_size(self) -> int:
        return 256 + len(SPECIALS)

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def all_special_ids(self) -> list[int]:
        return list(self._texts)

    @property
    def chat_template(self) -> str | None:
        return TEMPLATE

    @cached_property
    def pieces(self) -> Pieces:
        return Pieces("bytes", "none", self._bytes_of, special_ids=frozenset(self._texts), added=self._texts)

    def _bytes_of(self, token_id: int) -> bytes:
        return bytes((token_id,)) if 0 <= token_id < 256 else self._texts.get(token_id, "").encode()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = [self.bos_token_id] if self._add_bos and add_special_tokens else []
        while text:
            at, special = min(((i, s) for s in SPECIALS if (i := text.find(s)) >= 0), default=(len(text), ""))
            ids += text[:at].encode()
            ids += [self._ids[special]] if special else []
            text = text[at + len(special) :]
        return ids

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        return [self.encode(text, add_special_tokens) for text in texts]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        shown = (i for i in ids if not (skip_special_tokens and i in self._texts))
        return b"".join(self._bytes_of(i) for i in shown).decode("utf-8", "replace")

    def id_to_token(self, token_id: int) -> str | None:
        if 0 <= token_id < 256:
            return chr(token_id) if 32 <= token_id < 127 else f"<0x{token_id:02X}>"
        return self._texts.get(token_id)

    def token_to_id(self, token: str) -> int | None:
        if token in self._ids:
            return self._ids[token]
        if len(token) == 6 and token.startswith("<0x"):
            return int(token[3:5], 16)
        return ord(token) if len(token) == 1 and 32 <= ord(token) < 127 else None

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        return [self.id_to_token(i) for i in ids]

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
        return render_chat(
            self.templates.choose(chat_template, with_tools=tools is not None),
            messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables={"bos_token": "<bos>", "eos_token": "<eos>", **kwargs},
        )
