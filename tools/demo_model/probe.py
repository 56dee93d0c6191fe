"""A quick look at every skill during training: are all tokens of the held-out answers the likeliest?

Teacher-forced, so cheap; a greedy decode is right exactly when every token is.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from chats import SKILLS, held_out_chat, segments
from model import Model
from tokenizer import load_encoder
from torch import Tensor


class Probe:
    def __init__(self, folder: Path, per_skill: int, seed: int = 99, longest: int = 512) -> None:
        encode = load_encoder(folder)
        rng = random.Random(seed)
        items: list[tuple[str, list[int], int]] = []
        for skill in SKILLS:
            found = 0
            while found < per_skill:
                messages, tools = held_out_chat(rng, skill, turns_before=rng.choice((0, 0, 0, 1, 3)))
                parts = [(encode(text), trained) for text, trained in segments(messages, tools)]
                last = max(index for index, (_, trained) in enumerate(parts) if trained)
                ids = [token for part, _ in parts[: last + 1] for token in part]
                if len(ids) <= longest:
                    items.append((skill, ids, len(parts[last][0])))
                    found += 1
        self.items = sorted(items, key=lambda item: len(item[1]))

    @torch.no_grad()
    def __call__(self, model: Model, rows: int = 64) -> dict[str, float]:
        """The share of right answers by skill."""
        device = model.model.embed_tokens.weight.device
        right: dict[str, list[float]] = {skill: [] for skill in SKILLS}
        for start in range(0, len(self.items), rows):
            chunk = self.items[start : start + rows]
            width = max(len(ids) for _, ids, _ in chunk)
            tokens = torch.tensor([ids + [3] * (width - len(ids)) for _, ids, _ in chunk], device=device)
            best: Tensor = model(tokens).argmax(-1)
            for row, (skill, ids, answer) in enumerate(chunk):
                span = slice(len(ids) - answer, len(ids))
                guess = best[row, span.start - 1 : span.stop - 1]
                right[skill].append(float(torch.equal(guess, tokens[row, span])))
        return {skill: sum(values) / len(values) for skill, values in right.items()}
