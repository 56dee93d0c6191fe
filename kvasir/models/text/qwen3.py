"""Qwen3: queries and keys are normalised head by head; the head size is free of the hidden size."""

from kvasir.config.hf import ModelShape
from kvasir.models.common.decoder import DecoderForCausalLM, DecoderStyle


class Qwen3ForCausalLM(DecoderForCausalLM):
    @staticmethod
    def style(shape: ModelShape) -> DecoderStyle:
        return DecoderStyle(qkv_bias=shape.attention_bias, o_bias=shape.attention_bias, qk_norm=True)
