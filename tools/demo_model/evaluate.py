"""Exact match by skill on held-out chats, decoded greedily by transformers in float32.

python tools/demo_model/evaluate.py kvasir/assets/kvasir-demo --draft kvasir/assets/kvasir-demo-draft
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from chats import SKILLS, answer_text, held_out_chat
from skills import Message
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass
class Case:
    """A chat up to the answer, and the answer."""

    skill: str
    messages: list[Message]
    tools: list[dict[str, Any]]
    answer: str


def cases(skill: str, count: int, seed: int, turns: int | None = None) -> list[Case]:
    """Held-out cases of one skill, each after so many other turns; None: a third of them after one or four."""
    rng = random.Random(f"{skill}{seed}")
    found: list[Case] = []
    seen: set[str] = set()
    for _ in range(count * 20):
        messages, tools = held_out_chat(
            rng, skill, turns_before=rng.choice((0, 0, 0, 0, 1, 4)) if turns is None else turns
        )
        question = json.dumps(messages[-2:])
        if question not in seen or skill == "memory":
            seen.add(question)
            found.append(Case(skill, messages[:-1], tools, answer_text(messages[-1])))
        if len(found) == count:
            break
    return found


class Greedy:
    """A checkpoint folder loaded as any other, decoding greedily in batches."""

    def __init__(self, folder: Path, device: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.device = device

    def prompt(self, case: Case) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            case.messages, tools=case.tools or None, tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(text)["input_ids"]

    @torch.inference_mode()
    def answers(self, batch: list[Case]) -> list[str]:
        prompts = self.tokenizer.pad({"input_ids": [self.prompt(case) for case in batch]}, return_tensors="pt").to(
            self.device
        )
        longest = max(len(self.tokenizer(case.answer)["input_ids"]) for case in batch)
        out = self.model.generate(**prompts, max_new_tokens=longest + 8, do_sample=False)
        return [self.text(row) for row in out[:, prompts["input_ids"].shape[1] :].tolist()]

    def text(self, ids: list[int]) -> str:
        """The answer without its end mark; an answer that does not end is never right."""
        return self.tokenizer.decode(ids[: ids.index(2)]) if 2 in ids else self.tokenizer.decode(ids) + " ..."

    @torch.inference_mode()
    def choices(self, case: Case) -> list[int]:
        """The likeliest token at every place of the right answer."""
        prompt = self.prompt(case)
        answer = self.tokenizer(case.answer)["input_ids"] + [2]
        logits = self.model(torch.tensor([prompt + answer], device=self.device)).logits[0]
        return logits.argmax(-1).tolist()[len(prompt) - 1 : -1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--per-skill", type=int, default=200)
    parser.add_argument("--skills", nargs="+", default=list(SKILLS), choices=SKILLS)
    parser.add_argument("--turns", type=int, help="turns of other skills before each question")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--failures", action="store_true")
    args = parser.parse_args()

    greedy = Greedy(args.folder, args.device)
    draft = Greedy(args.draft, args.device) if args.draft else None
    report: dict[str, Any] = {"per_skill": args.per_skill, "exact_match": {}}
    same = total = 0
    for skill in args.skills:
        todo = sorted(cases(skill, args.per_skill, args.seed, args.turns), key=lambda case: len(case.answer))
        right = 0
        for start in range(0, len(todo), args.batch):
            batch = todo[start : start + args.batch]
            for case, answer in zip(batch, greedy.answers(batch), strict=True):
                right += answer == case.answer
                if answer != case.answer and args.failures:
                    print(skill, case.messages[-1]["content"], "|", case.answer, "|", answer)
        report["exact_match"][skill] = round(right / len(todo), 4)
        longest = max(len(greedy.prompt(case)) for case in todo)
        print(f"{skill:14s} {right}/{len(todo)} = {right / len(todo):.3f}, longest prompt {longest} tokens", flush=True)
        if draft:
            for case in todo[::5]:
                pairs = list(zip(greedy.choices(case), draft.choices(case), strict=True))
                same += sum(ours == theirs for ours, theirs in pairs)
                total += len(pairs)
    if draft:
        report["draft_agreement"] = round(same / total, 4)
        print(f"draft agreement {same / total:.3f} of {total} tokens")
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
