"""`thinking_token_budget` of a chat -> the tokens between which the model may think."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvasir.messages import ThinkingBudget
from kvasir.parsers import ReasoningFamily, Think, starts_inside

if TYPE_CHECKING:
    from kvasir.tokenizer import Tokenizer


@dataclass(frozen=True)
class ThoughtMarks:
    """The marks of a server's model; each is one token. `start_id` is None where only the prompt begins a thought."""

    style: Think
    start_id: int | None
    end_id: int

    def bound(self, budget: int, prompt: str | None) -> ThinkingBudget | None:
        """None when the prompt leaves no room for a thought."""
        told = starts_inside(self.style, prompt)
        bounded = ThinkingBudget(budget, self.end_id, self.start_id, self.style.inside if told is None else told)
        return None if told is False else bounded


def thought_marks(reasoning: ReasoningFamily | None, tokenizer: "Tokenizer | None") -> ThoughtMarks | str:
    """Found once for a server; a sentence where thoughts cannot be bounded, for those who ask."""
    if reasoning is None or tokenizer is None:
        return "a budget for thoughts needs a --reasoning-parser that knows their marks, and this server has none."
    style = reasoning.style
    end_id = _one_token(tokenizer, style.closes) if isinstance(style, Think) else None
    if not isinstance(style, Think) or end_id is None:
        return (
            "a budget for thoughts is available where one token ends them, and this model's mark is longer. Bound the "
            'answer with max_tokens, or turn thoughts off with reasoning_effort "none".'
        )
    return ThoughtMarks(style, _one_token(tokenizer, style.opens), end_id)


def _one_token(tokenizer: "Tokenizer", marks: Sequence[str]) -> int | None:
    ids = tokenizer.encode(marks[0], add_special_tokens=False)
    return ids[0] if len(ids) == 1 else None
