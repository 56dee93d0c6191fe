"""Text to token ids and back, chat templates, incremental detokenizing, stop strings.

Ring: front (and whoever needs an end-of-text id).
Input -> output: text or chat messages -> token ids; token ids, a few at a time -> text, a few letters at a time.
Knows nothing about: requests, scheduling, HTTP, torch, transformers.
"""

from kvasir.tokenizer.base import Tokenizer
from kvasir.tokenizer.chat_template import ChatTemplates, content_format, render_chat
from kvasir.tokenizer.detokenize import IncrementalDetokenizer, token_text
from kvasir.tokenizer.hf import HfTokenizer, get_tokenizer
from kvasir.tokenizer.stop_strings import StopChecker

__all__ = [
    "ChatTemplates",
    "HfTokenizer",
    "IncrementalDetokenizer",
    "StopChecker",
    "Tokenizer",
    "content_format",
    "get_tokenizer",
    "render_chat",
    "token_text",
]
