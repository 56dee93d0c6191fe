"""The decoder that Llama and its many relatives share. What differs is data: `DecoderStyle`.

Legend: T tokens, R rows asked for logits, H query heads, K KV heads, D head size, E hidden, V vocabulary.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from kvasir.config.hf import ModelShape
from kvasir.layers.attention import Attention
from kvasir.layers.embedding import LMHead, VocabParallelEmbedding
from kvasir.layers.linear import QKVParallelLinear, RowParallelLinear
from kvasir.layers.mlp import GatedMLP
from kvasir.layers.norm import RMSNorm
from kvasir.layers.rotary import RotaryEmbedding
from kvasir.models.interface import ModelBuild
from kvasir.models.weights import Rule, Skip, Stack, Tie

DECODER_WEIGHTS: tuple[Rule, ...] = (
    Skip(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$"),  # old checkpoints carry tables that we compute
    Tie("lm_head.weight", "model.embed_tokens.weight"),
    Stack("qkv_proj", {"q_proj": "q", "k_proj": "k", "v_proj": "v"}),
    Stack("gate_up_proj", {"gate_proj": "gate", "up_proj": "up"}),
)


@dataclass(frozen=True)
class DecoderStyle:
    """How one architecture differs from plain Llama.

    Attributes:
        qk_norm: queries and keys are normalised head by head before they are turned.
    """

    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False


class DecoderAttention(nn.Module):
    def __init__(self, shape: ModelShape, build: ModelBuild, style: DecoderStyle, index: int, prefix: str):
        super().__init__()
        dtype, device, group = build.dtype, build.device, build.group
        self.qkv_proj = QKVParallelLinear(
            shape.hidden_size, shape.head_size, shape.num_heads, shape.num_kv_heads, style.qkv_bias,
            build.linear_method(f"{prefix}.qkv_proj"), dtype, device, group,
        )  # fmt: skip
        self.o_proj = RowParallelLinear(
            shape.num_heads * shape.head_size, shape.hidden_size, style.o_bias,
            build.linear_method(f"{prefix}.o_proj"), dtype, device, group, unit=shape.head_size,
        )  # fmt: skip
        self.q_norm = RMSNorm(shape.head_size, shape.rms_norm_eps, dtype, device) if style.qk_norm else None
        self.k_norm = RMSNorm(shape.head_size, shape.rms_norm_eps, dtype, device) if style.qk_norm else None
        self.attn = Attention(
            index,
            self.qkv_proj.num_heads,
            self.qkv_proj.num_kv_heads,
            shape.head_size,
            build.attention_backend,
            sliding_window=shape.layer_windows[index],
        )

    def forward(
        self,
        positions: torch.Tensor,
        q: torch.Tensor,  # [T, H, D]
        k: torch.Tensor,  # [T, K, D]
        v: torch.Tensor,  # [T, K, D]
        rotary: RotaryEmbedding,
        last: torch.Tensor | None = None,
    ) -> torch.Tensor:
        out = self.attn(q, k, v, rotary(positions, self.q_norm, self.k_norm), last)  # [T or B, H, D]
        return self.o_proj(out.flatten(-2))  # [T, E]


class DecoderLayer(nn.Module):
    """(x, residual) -> (x, residual): additions and norms are left to the products after them."""

    def __init__(self, shape: ModelShape, build: ModelBuild, style: DecoderStyle, index: int, prefix: str):
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps, build.dtype, build.device)
        self.self_attn = DecoderAttention(shape, build, style, index, f"{prefix}.self_attn")
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps, build.dtype, build.device)
        self.mlp = GatedMLP(
            shape.hidden_size,
            shape.intermediate_size,
            shape.hidden_act,
            style.mlp_bias,
            lambda name: build.linear_method(f"{prefix}.mlp.{name}"),
            build.dtype,
            build.device,
            build.group,
        )

    def forward(
        self,
        positions: torch.Tensor,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        rotary: RotaryEmbedding,
        last: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`last`: [B] int64, the only tokens whose outputs are wanted; the keys and values of all are still written."""
        qkv_proj = self.self_attn.qkv_proj
        if residual is None:
            heads, residual = qkv_proj(self.input_layernorm(x)), x
        else:
            heads, residual = qkv_proj.forward_normed(self.input_layernorm.pending(x, residual))
        attended = self.self_attn(positions, *heads, rotary, last)
        if last is not None:
            residual = residual[last]  # [B, E]
        return self.mlp.forward_normed(self.post_attention_layernorm.pending(attended, residual))


class Decoder(nn.Module):
    """input_ids [T], positions [T] -> hidden [T, E], normalised; with `last` [B, E], of those tokens.

    Nobody reads what the last layer makes of the others, which in a step of long prompts is nearly all it would do.
    """

    def __init__(self, shape: ModelShape, build: ModelBuild, style: DecoderStyle, prefix: str):
        super().__init__()
        self.embed_tokens = VocabParallelEmbedding(
            shape.vocab_size, shape.hidden_size, build.dtype, build.device, build.group
        )
        self.layers = nn.ModuleList(
            DecoderLayer(shape, build, style, i, f"{prefix}.layers.{i}") for i in range(shape.num_layers)
        )
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps, build.dtype, build.device)
        self.rotary = RotaryEmbedding(
            shape.rope, shape.head_size, build.max_model_len or shape.context_length, build.device
        )

    def forward(
        self, input_ids: torch.Tensor, positions: torch.Tensor, last: torch.Tensor | None = None
    ) -> torch.Tensor:
        x, residual = self.embed_tokens(input_ids), None  # [T, E]
        for layer in self.layers[:-1]:
            x, residual = layer(positions, x, residual, self.rotary)
        x, residual = self.layers[-1](positions, x, residual, self.rotary, last)  # [T or B, E]
        return self.norm.add(x, residual)[0]


class DecoderForCausalLM(nn.Module):
    """A decoder with a language-model head. Subclasses say their `style`, and their WEIGHTS when names differ."""

    WEIGHTS: ClassVar[tuple[Rule, ...]] = DECODER_WEIGHTS

    @staticmethod
    def style(shape: ModelShape) -> DecoderStyle:
        return DecoderStyle()

    def __init__(self, shape: ModelShape, build: ModelBuild):
        super().__init__()
        self.model = Decoder(shape, build, self.style(shape), "model")
        self.lm_head = LMHead(
            shape.vocab_size,
            shape.hidden_size,
            build.dtype,
            build.device,
            build.group,
            tied=self.model.embed_tokens if shape.tie_word_embeddings else None,
        )

    def forward(
        self, input_ids: torch.Tensor, positions: torch.Tensor, last: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.model(input_ids, positions, last)

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.lm_head(hidden)  # [R, V]
