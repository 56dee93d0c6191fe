"""Trains kvasir-demo and its draft sibling in one command.

    python tools/demo_model/train.py --minutes 6.5 --out OUT

Rows are made by worker processes while the models train on them. Skills that the
probe finds weak are drawn more often. The learning rate follows the elapsed share
of the time limit, so the run always ends on time and fully cooled down.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from chats import WEIGHTS
from export import export, folder_name, load
from model import SHAPES, Model
from optim import build
from probe import Probe
from rows import BUCKETS, SHORT_BUCKETS, RowPool
from torch import Tensor

ASSETS = Path(__file__).resolve().parents[2] / "kvasir" / "assets"


def rate(progress: float) -> float:
    """Warm up, stay, and cool down to nothing."""
    return min(1.0, progress / 0.02, (1.0 - progress) / 0.6)


def reweigh(weights: list[float], base: list[float], right: dict[str, float]) -> list[float]:
    """Draw a skill by what it still lacks; a perfect skill keeps a seventh of the most."""
    wanted = [value * (0.25 + 1.5 * (1.0 - right[skill])) for skill, value in zip(WEIGHTS, base, strict=True)]
    return [0.5 * old + 0.5 * new * sum(base) / sum(wanted) for old, new in zip(weights, wanted, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.5)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["demo", "draft"], choices=list(SHAPES))
    parser.add_argument("--init", type=Path, help="folder of exported models to go on from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokens", type=int, help="tokens a step")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.004)
    parser.add_argument("--probe-minutes", type=float, default=1.0)
    parser.add_argument("--focus", nargs="+", default=list(WEIGHTS), help="skills to train; the others come rarely")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    start = time.monotonic()
    cuda = args.device.startswith("cuda")
    tokens_a_step = args.tokens or (131072 if cuda else 6144)
    workers = args.workers if args.workers is not None else (max(1, (os.cpu_count() or 2) - 2) if cuda else 0)
    buckets = BUCKETS if cuda else SHORT_BUCKETS
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    rng = random.Random(args.seed)
    folder = ASSETS / "kvasir-demo"
    pool = RowPool(folder, workers, args.seed * 1000, buckets, tokens_a_step)
    base = [value * (1.0 if skill in args.focus else 0.1) for skill, value in WEIGHTS.items()]
    pool.weights[:] = base
    probe = Probe(folder, 64 if cuda else 24)

    models: dict[str, Model] = {}
    for name in args.models:
        models[name] = Model(SHAPES[name]).to(args.device)
        if args.init:
            load(models[name], args.init / folder_name(name))
    hidden = {n: m.hidden if args.no_compile else torch.compile(m.hidden, dynamic=False) for n, m in models.items()}
    optimizers = {n: build(m, args.muon_lr, args.adam_lr) for n, m in models.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    log = (args.out / "train.jsonl").open("a")

    def save() -> None:
        for name, model in models.items():
            export(model, folder, args.out / folder_name(name))

    def loss_of(name: str, rows: Tensor) -> Tensor:
        tokens = rows & 32767
        trained = rows[:, 1:] >= 32768
        with torch.autocast(args.device.split(":")[0], dtype=torch.bfloat16, enabled=cuda):
            states = hidden[name](tokens[:, :-1])[trained]
            logits = F.linear(states, models[name].model.embed_tokens.weight)
        return F.cross_entropy(logits.float(), tokens[:, 1:][trained])

    step = seen = 0
    losses: dict[str, float] = {}
    next_probe = args.probe_minutes * 60
    limit = args.minutes * 60
    while (elapsed := time.monotonic() - start) < limit:
        length = rng.choices(list(buckets), list(buckets.values()))[0]
        raw = torch.from_numpy(pool.batch(length, tokens_a_step // length).astype("int32"))
        rows = raw.to(args.device, torch.int64, non_blocking=True)
        for name in models:
            loss = loss_of(name, rows)
            loss.backward()
            for optimizer in optimizers[name]:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * rate(elapsed / limit)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if step % 20 == 0:
                losses[name] = loss.item()
                if not math.isfinite(losses[name]):
                    raise SystemExit(f"the loss of {name} is not finite at step {step}")
        step += 1
        seen += rows.numel()
        if elapsed > next_probe:
            next_probe = elapsed + args.probe_minutes * 60
            right = {name: probe(model) for name, model in models.items()}
            pool.weights[:] = reweigh(list(pool.weights), base, next(iter(right.values())))
            entry = {
                "seconds": round(elapsed),
                "step": step,
                "tokens": seen,
                "made": pool.made,
                "loss": losses,
                "right": right,
            }
            log.write(json.dumps(entry) + "\n")
            log.flush()
            shown = " ".join(f"{skill}:{value:.2f}" for skill, value in next(iter(right.values())).items())
            print(f"{elapsed:5.0f}s step {step} tokens {seen / 1e6:.1f}M loss {losses} {shown}", flush=True)
            save()
    pool.close()
    save()
    print(f"done: {step} steps, {seen / 1e6:.1f}M tokens, {time.monotonic() - start:.0f}s", flush=True)


if __name__ == "__main__":
    main()
