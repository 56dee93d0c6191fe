"""Qwen2 and Qwen2.5: biases on queries, keys and values, never on the output projection."""

from kvasir.config.hf import ModelShape
from kvasir.models.common.decoder import DecoderForCausalLM, DecoderStyle


class Qwen2ForCausalLM(DecoderForCausalLM):
    @staticmethod
    def style(shape: ModelShape) -> DecoderStyle:
        return DecoderStyle(qkv_bias=True)
