"""How many tokens a model may think before it must answer."""

import msgspec

from kvasir.errors import UserError


class ThinkingBudget(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tags of a thought, each one token, and how many tokens may stand between them.

    Attributes:
        budget: tokens of thought; then the next token is `end_token_id`, whatever the model would rather write.
        end_token_id: ends a thought.
        start_token_id: begins one, within the first tokens of an answer; None when only the prompt can.
        inside: the answer begins in the middle of a thought.

    Raises:
        UserError: a budget below 0.
    """

    budget: int
    end_token_id: int
    start_token_id: int | None = None
    inside: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.budget < 2**31:
            raise UserError(
                f"thinking_token_budget must be between 0 and {2**31 - 1}, got {self.budget}.",
                param="thinking_token_budget",
            )
