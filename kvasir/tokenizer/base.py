"""What the rest of Kvasir asks of a tokenizer."""

from collections.abc import Sequence
from typing import Any, Protocol

from kvasir.tokenizer.pieces import Pieces


class Tokenizer(Protocol):
    """Text <-> ids. `kvasir.tokenizer.HfTokenizer` is the real one, `kvasir.testing.ByteTokenizer` the small one."""

    bos_token_id: int | None
    eos_token_id: int | None
    max_len: int | None

    @property
    def vocab_size(self) -> int: ...
    @property
    def all_special_ids(self) -> list[int]: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def pieces(self) -> Pieces: ...

    def __len__(self) -> int: ...
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...
    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]: ...
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...
    def id_to_token(self, token_id: int) -> str | None: ...
    def token_to_id(self, token: str) -> int | None: ...
    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]: ...
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
    ) -> str: ...
