"""Mistral: Llama without any bias; its sliding window is data of the shape."""

from kvasir.models.common.decoder import DecoderForCausalLM


class MistralForCausalLM(DecoderForCausalLM):
    pass
