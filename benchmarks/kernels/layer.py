"""A decode layer of Qwen3-0.6B as the engine launches it, 28 layers in one graph replay: who does the products, in place.

    python benchmarks/kernels/layer.py             # library, Triton, CUDA, for some batches
    python benchmarks/kernels/layer.py --sweep     # CUDA variants too, one product at a time, the others as frozen

One JSON object a line; times are microseconds a layer. A product alone says little: what counts is how much of its weight
travels while the kernel before still runs, so kernels are timed among those that the engine launches around them.
"""

import argparse
import json
import pathlib
import sys

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from attention import graph_of, seconds

from kvasir.ops.cuda.skinny_linear import SkinnyConfig, skinny_config, skinny_linear
from kvasir.ops.triton import skinny_linear as by_triton
from kvasir.ops.triton.activation import silu_and_mul
from kvasir.ops.triton.norm import add_rms_norm
from kvasir.ops.triton.paged_attention import paged_attention
from kvasir.ops.triton.rope_and_cache import rope_and_cache

LAYERS, HEADS, KV_HEADS, HEAD_SIZE, HIDDEN, INNER, BLOCK_SIZE = 28, 16, 8, 128, 1024, 3072, 16
BATCHES = [(8, 640), (16, 640), (32, 640), (32, 128)]
SHAPES = {  # outputs (of each weight), inputs, gated
    "qkv": ((HEADS + 2 * KV_HEADS) * HEAD_SIZE, HIDDEN, False),
    "o": (HIDDEN, HEADS * HEAD_SIZE, False),
    "gate_up": (INNER, HIDDEN, True),
    "down": (HIDDEN, INNER, False),
}
SWEEP = {
    "qkv": [(2, 2, 4, 1), (4, 1, 8, 1), (4, 1, 4, 1), (2, 4, 2, 2), (4, 2, 4, 2), (4, 4, 2, 4), (1, 4, 2, 1)],
    "o": [(2, 1, 8, 2), (2, 2, 4, 4), (4, 1, 8, 4), (4, 2, 4, 8), (2, 4, 2, 8), (1, 4, 2, 4), (1, 1, 8, 1)],
    "gate_up": [(3, 1, 8, 1), (1, 3, 4, 1), (2, 2, 4, 1), (3, 2, 4, 2), (1, 6, 2, 2), (3, 4, 2, 4), (2, 1, 8, 1)],
    "down": [(2, 2, 4, 4), (4, 1, 8, 4), (2, 4, 2, 8), (4, 2, 4, 8), (2, 1, 8, 2), (1, 8, 1, 8), (1, 4, 4, 8)],
}


def new(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


class Model:
    def __init__(self) -> None:
        self.weights = {
            name: [new(n * (2 if gated else 1), k) * k**-0.5 for _ in range(LAYERS)] for name, (n, k, gated) in SHAPES.items()
        }
        self.norm, self.head_norm = new(HIDDEN), new(HEAD_SIZE)
        self.angles = torch.randn(4096, HEAD_SIZE, device="cuda")


class Batch:
    def __init__(self, rows: int, tokens: int) -> None:
        per_row = -(-tokens // BLOCK_SIZE)
        self.rows = rows
        self.caches = [new(rows * per_row, 2, KV_HEADS, BLOCK_SIZE, HEAD_SIZE) for _ in range(LAYERS)]
        self.table = torch.randperm(rows * per_row, device="cuda").int().view(rows, per_row)
        self.lens = torch.full((rows,), tokens, dtype=torch.int32, device="cuda")
        self.order = torch.arange(rows, device="cuda")
        self.starts = torch.arange(rows + 1, device="cuda", dtype=torch.int32)
        self.positions = torch.full((rows,), tokens - 1, device="cuda")
        self.slots = self.table[:, -1].long() * BLOCK_SIZE + (tokens - 1) % BLOCK_SIZE
        self.x, self.residual = new(rows, HIDDEN), new(rows, HIDDEN)


def run(model: Model, batch: Batch, products: dict, attention: bool) -> None:
    x, residual = batch.x, batch.residual
    sizes = [HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE]
    for layer, cache in enumerate(batch.caches):
        views = cache[:, 0].transpose(1, 2), cache[:, 1].transpose(1, 2)
        normed, residual = add_rms_norm(x, residual, model.norm, 1e-6)
        packed = products["qkv"](normed, model.weights["qkv"][layer])
        q, k, v = (part.view(batch.rows, -1, HEAD_SIZE) for part in packed.split(sizes, dim=1))
        q = rope_and_cache(
            batch.positions, q, k, v, model.angles, *views, batch.slots, model.head_norm, model.head_norm, 1e-6
        )
        if attention:
            out = torch.empty_like(q)
            paged_attention(
                q, *views, batch.starts, batch.lens, batch.table, batch.order, HEAD_SIZE**-0.5,
                num_decodes=batch.rows, output=out,
            )
            q = out
        x = products["o"](q.flatten(1), model.weights["o"][layer])
        normed, residual = add_rms_norm(x, residual, model.norm, 1e-6)
        x = products["down"](products["gate_up"](normed, model.weights["gate_up"][layer]), model.weights["down"][layer])


def by_library(gated: bool):
    return (lambda x, w: silu_and_mul(F.linear(x, w))) if gated else F.linear


def by_our_triton(gated: bool):
    product = by_triton.skinny_gated if gated else by_triton.skinny_linear
    return lambda x, w: product(x, w, None)


def by_cuda(gated: bool, config: SkinnyConfig):
    return lambda x, w: skinny_linear(x, w, None, gated, config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    frozen = {name: skinny_config(n, k, gated, processors) for name, (n, k, gated) in SHAPES.items()}
    by = {
        "library": {name: by_library(gated) for name, (*_, gated) in SHAPES.items()},
        "triton": {name: by_our_triton(gated) for name, (*_, gated) in SHAPES.items()},
        "cuda": {name: by_cuda(gated, frozen[name]) for name, (*_, gated) in SHAPES.items()},
    }
    model = Model()
    for rows, tokens in BATCHES:
        batch = Batch(rows, tokens)

        def show(products: dict, attention: bool = True, batch: Batch = batch, **what: object) -> None:
            taken = seconds(graph_of(lambda: run(model, batch, products, attention)).replay, 9) / LAYERS
            fields = {"rows": batch.rows, "tokens": int(batch.lens[0]), "attention": attention, **what}
            print(json.dumps({**fields, "us": round(taken * 1e6, 2)}), flush=True)

        for name, products in by.items():
            for attention in (True, False):
                show(products, attention, by=name)
        if args.sweep:
            for name, variants in SWEEP.items():
                show({**by["cuda"], name: by["triton"][name]}, product=name, variant="triton")
                for variant in variants:
                    one = by_cuda(SHAPES[name][2], SkinnyConfig(*variant))
                    show({**by["cuda"], name: one}, product=name, variant=variant)


if __name__ == "__main__":
    main()
