"""Writes held-out chats that the shipped model answers rightly, for tests of whole engines.

Only answers with a clear margin between the best and the second token are kept, so
that another kernel's rounding does not change them.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from chats import SKILLS, _filler
from evaluate import Case, Greedy, cases

MARGIN = 0.5


@torch.inference_mode()
def clear_and_right(greedy: Greedy, case: Case) -> bool:
    """One greedy decode without padding: right, and never a close call."""
    prompt = greedy.prompt(case)
    longest = len(greedy.tokenizer(case.answer)["input_ids"]) + 4
    out = greedy.model.generate(
        torch.tensor([prompt]),
        max_new_tokens=longest,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    if greedy.text(out.sequences[0, len(prompt) :].tolist()) != case.answer:
        return False
    best = torch.stack(out.logits)[:, 0].topk(2).values
    return bool((best[:, 0] - best[:, 1]).min() >= MARGIN)


def candidates(skill: str, greedy: Greedy) -> Iterator[tuple[str, Case]]:
    """Plain cases first, then long prompts, then long answers."""
    rng = random.Random(f"golden {skill}")
    pool = cases(skill, 120, seed=11)
    for case in pool[:60]:
        yield "plain", case
    for case in pool[60:90]:
        notes = {"role": "system", "content": "Be brief. Notes: " + _filler(rng, 130)}
        if case.messages[0]["role"] == "system":
            case.messages = case.messages[1:]
        case.messages = [notes, *case.messages]
        if len(greedy.prompt(case)) > 500:
            yield "long prompt", case
    for case in pool:
        if len(greedy.tokenizer(case.answer)["input_ids"]) > 150:
            yield "long answer", case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    greedy = Greedy(args.folder, "cpu")
    quota = {"plain": 12, "long prompt": 1, "long answer": 6}
    lines: list[str] = []
    for skill in SKILLS:
        have = dict.fromkeys(quota, 0)
        for kind, case in candidates(skill, greedy):
            if have[kind] < quota[kind] and clear_and_right(greedy, case):
                have[kind] += 1
                entry: dict[str, Any] = {"skill": skill, "messages": case.messages}
                if case.tools:
                    entry["tools"] = case.tools
                lines.append(json.dumps({**entry, "answer": case.answer}))
        print(skill, have, flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
