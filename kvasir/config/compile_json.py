"""`--compilation-config`: its fields, by vLLM's names, and one true sentence for each that has no meaning here."""

import difflib
from typing import Any

OPS = (
    "rms_norm", "add_rms_norm", "silu_and_mul", "linear", "gated_linear", "norm_linear", "norm_gated_linear",
)  # fmt: skip
PASSES = ("fuse_rms_norm", "fuse_add_rms_norm", "fuse_silu_and_mul")
BACKENDS = ("eager", "inductor")
MODES = {"0": 0, "none": 0, "3": 2, "vllm_compile": 2}
"""vLLM's compilation modes -> our optimization level."""

FIELDS = {
    "mode": "0 or NONE: not compiled; 3 or VLLM_COMPILE: piece by piece, as -O2",
    "level": "an older name of mode",
    "backend": "eager or inductor",
    "custom_ops": 'ops that stay as they are: "all", "none", "+op", "-op"',
    "pass_config": "pass name -> true or false",
    "inductor_compile_config": "options of torch._inductor.config",
    "debug_dump_path": "folder into which the pieces' graphs are written",
    "cudagraph_mode": "as --cudagraph-mode",
    "cudagraph_capture_sizes": "as --cudagraph-capture-sizes",
}
GRAPH_FIELDS = ("cudagraph_mode", "cudagraph_capture_sizes")
"""Fields that are options of their own; they are handed on to those."""

_BY_NAME = {
    "splitting_ops": "a model is split at the layers that read the step's context (attention)",
    "compile_sizes": "one compilation serves every number of tokens",
    "compile_ranges_split_points": "one compilation serves every number of tokens",
    "compile_ranges_endpoints": "one compilation serves every number of tokens",
    "dynamic_shapes_config": "the number of tokens is always open",
    "inductor_passes": "passes are not loaded by name; pass_config switches those that exist",
    "use_inductor": "say backend: inductor or eager",
    "use_inductor_graph_partition": "graphs are split before inductor sees them",
    "ir_enable_torch_wrap": "there is no such layer here",
    "max_cudagraph_capture_size": "cudagraph_capture_sizes says which sizes are captured",
    "cudagraph_num_of_warmups": "a step runs once before it is captured",
    "cudagraph_copy_inputs": "inputs are in place when a graph is replayed",
    "cudagraph_specialize_lora": "there are no adapters yet",
    "use_cudagraph": "say cudagraph_mode",
    "full_cuda_graph": "say cudagraph_mode",
    "cache_dir": "set KVASIR_CACHE_DIR",
    "compile_cache_save_format": "inductor's cache has one format",
    "compile_mm_encoder": "only text models are supported yet",
    "fast_moe_cold_start": "there are no expert layers yet",
    "static_all_moe_layers": "there are no expert layers yet",
    "evaluate_guards": "compiled pieces have no guards",
}
_PASSES_BY_NAME = {
    "eliminate_noops": "inductor removes no-ops by itself",
    "fuse_norm_quant": "quantized activations are not supported yet",
    "fuse_act_quant": "quantized activations are not supported yet",
    "fuse_attn_quant": "quantized activations are not supported yet",
    "enable_sp": "one worker has nothing to split",
    "fuse_gemm_comms": "one worker has nothing to exchange",
    "fuse_allreduce_rms": "one worker has nothing to reduce",
    "enable_qk_norm_rope_fusion": "attention backends fuse this by themselves",
    "fuse_rope_kvcache": "attention backends fuse this by themselves",
}


def check(value: dict[str, Any]) -> str | None:
    """What is wrong with a value of the option, or None. The error is the option's own sentence."""
    for name, given in value.items():
        if name in _BY_NAME:
            return f"has no field {name}: {_BY_NAME[name]}"
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(FIELDS)}"
            return f"has no field {name}: {hint}"
        complaint = _check_field(name, given)
        if complaint:
            return f"must have another {name}: {complaint}"
    return None


def _check_field(name: str, given: Any) -> str | None:
    if name in ("mode", "level"):
        known = str(given).lower() in MODES
        return None if known else f"{given!r} is none of 0, NONE, 3, VLLM_COMPILE; -O0 to -O3 say more"
    if name == "backend":
        return None if given in ("", *BACKENDS) else f"{given!r} is none of {', '.join(BACKENDS)}"
    if name == "custom_ops":
        return _check_ops(given)
    if name == "pass_config":
        return _check_passes(given)
    if name == "inductor_compile_config" and not isinstance(given, dict):
        return "it is an object of options"
    if name == "debug_dump_path" and not isinstance(given, str):
        return "it is the path of a folder"
    return None


def _check_ops(given: Any) -> str | None:
    if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
        return 'it is a list such as ["none", "+rms_norm"]'
    wrong = [w for w in given if w not in ("all", "none") and (w[:1] not in "+-" or w[1:] not in OPS)]
    return f"{wrong[0]!r} is none of all, none, and +op or -op for {', '.join(OPS)}" if wrong else None


def _check_passes(given: Any) -> str | None:
    if not isinstance(given, dict):
        return 'it is an object such as {"fuse_rms_norm": false}'
    for name, on in given.items():
        if name in _PASSES_BY_NAME and on:
            return f"{name} cannot be had: {_PASSES_BY_NAME[name]}"
        if name not in PASSES and name not in _PASSES_BY_NAME:
            return f"{name} is no pass; there are {', '.join(PASSES)}"
        if not isinstance(on, bool):
            return f"{name} is true or false"
    return None
