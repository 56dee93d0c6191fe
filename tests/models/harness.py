"""Runs one request through a model without an engine: its own KV blocks, its own forward context."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kvasir.attention.backend import AttentionBatch, AttentionNeed
from kvasir.attention.forward_context import ForwardContext, forward_context
from kvasir.attention.reference import ReferenceBackend
from kvasir.config.hf import ModelShape, load_model_shape
from kvasir.loader.load import load_model
from kvasir.models.interface import ModelBuild

BLOCK_SIZE = 4  # small, so that even short prompts cross block borders


@dataclass
class PlayedGroup:
    """One of several workers, played alone: it knows its number, and leaves the collectives to the test."""

    rank: int
    world_size: int

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def all_gather(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        return x


def make_build(**changes: Any) -> ModelBuild:
    values = {"dtype": torch.float32, "device": torch.device("cpu"), "attention_backend": ReferenceBackend}
    return ModelBuild(**{**values, **changes})


def load(folder: Path, **changes: Any) -> "SingleRequest":
    shape, build = load_model_shape(folder), make_build(**changes)
    return SingleRequest(load_model(shape, build, folder, use_tqdm=False), shape, build)


class SingleRequest:
    """A request that grows: `feed` computes the next tokens on top of what is cached already."""

    def __init__(self, model: torch.nn.Module, shape: ModelShape, build: ModelBuild, max_tokens: int = 256):
        self.model = model
        self.shape = shape
        need = AttentionNeed(
            device=build.device.type,
            dtype=build.dtype,
            head_size=shape.head_size,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            block_size=BLOCK_SIZE,
            sliding_window=shape.sliding_window is not None,
        )
        num_blocks = max_tokens // BLOCK_SIZE
        self.block_ids = torch.arange(num_blocks).flip(0)  # any order but the natural one
        self.builder = build.attention_backend.make_builder(need)
        cache_shape = build.attention_backend.kv_cache_shape(
            num_blocks, BLOCK_SIZE, shape.num_kv_heads, shape.head_size
        )
        self.kv_caches = [torch.zeros(cache_shape, dtype=build.dtype) for _ in range(shape.num_layers)]
        self.num_cached = 0

    @torch.no_grad()
    def feed(self, token_ids: list[int]) -> torch.Tensor:
        """-> logits of every token fed, [T, V]."""
        query, context = len(token_ids), self.num_cached
        positions = torch.arange(context, context + query)
        slots = self.block_ids[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        batch = AttentionBatch(
            query_start_loc=torch.tensor([0, query], dtype=torch.int32),
            seq_lens=torch.tensor([context + query], dtype=torch.int32),
            block_table=self.block_ids.to(torch.int32).unsqueeze(0),
            table_rows=torch.zeros(1, dtype=torch.int64),
            slot_mapping=slots,
            num_reqs=1,
            num_tokens=query,
            num_decodes=int(query == 1),
            max_query_len=query,
            max_seq_len=context + query,
            query_lens=[query],
            context_lens=[context],
        )
        with forward_context(ForwardContext(self.builder.build(batch), self.kv_caches)):
            hidden = self.model(torch.tensor(token_ids), positions)
        self.num_cached += query
        return self.model.compute_logits(hidden)
