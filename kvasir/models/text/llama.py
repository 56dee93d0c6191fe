"""Llama 1 to 3 and the many checkpoints that use its shape."""

from kvasir.config.hf import ModelShape
from kvasir.models.common.decoder import DecoderForCausalLM, DecoderStyle


class LlamaForCausalLM(DecoderForCausalLM):
    @staticmethod
    def style(shape: ModelShape) -> DecoderStyle:
        return DecoderStyle(qkv_bias=shape.attention_bias, o_bias=shape.attention_bias, mlp_bias=shape.mlp_bias)
