"""What a rule returns."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Decision:
    """One resolved option: its name, its value and a reason fit for the log."""

    name: str
    value: Any
    why: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value} ({self.why})"
