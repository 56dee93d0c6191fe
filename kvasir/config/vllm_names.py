"""vLLM's engine and server options that Kvasir does not have, with one true sentence each.

Names that both share need no row: they are ordinary options. A row is `ignored` when leaving the option out
changes no result (one line is logged), or `refused` when going on would silently do something else than asked.
A value in `harmless` (the option's resting position) is taken without a word.
"""

from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["ignored", "refused"]
OFF: tuple[Any, ...] = (None, False, "", 0)


@dataclass(frozen=True)
class ForeignName:
    name: str
    verdict: Verdict
    sentence: str
    harmless: tuple[Any, ...] = OFF
    is_switch: bool = False

    def accepts_quietly(self, value: Any) -> bool:
        """True for the resting position; texts from the command line count as their value."""
        texts = {str(h).lower() for h in self.harmless}
        return value in ([], {}) or any(value is h or value == h for h in self.harmless) or str(value).lower() in texts


def _ignored(name: str, sentence: str, *, switch: bool = False) -> ForeignName:
    return ForeignName(name, "ignored", sentence, is_switch=switch)


def _refused(name: str, sentence: str, *harmless: Any, switch: bool = False) -> ForeignName:
    return ForeignName(name, "refused", sentence, harmless=(*OFF, *harmless), is_switch=switch)


_NO_QUANT = "quantized weights are not supported yet; use a bfloat16, float16 or float32 checkpoint"
_NO_MULTI = "this version runs one worker on one device"
_ONE_HOST = "data_parallel_size cores run on this machine under one server, which balances among them"
_NO_LORA = "LoRA adapters are not supported yet; merge the adapter into the weights"
_NO_SPEC = "speculative decoding is not supported yet; leave it out, the text is the same"
_NO_MEDIA = "only text models are supported yet"
_NO_OFFLOAD = "nothing is moved to host memory yet; lower max_model_len or choose a smaller model"
_NO_POOL = "only generating models are supported yet"
_NO_COMPILE = "there is nothing to tune there yet: kernels and graphs are chosen by the worker"
_BUILT_IN = "Kvasir does this by itself"
_ONE_WAY = "Kvasir has one way of doing this"

_ROWS = (
    # Weights and model.
    _refused("quantization", _NO_QUANT),
    _refused("quantization_config", _NO_QUANT),
    _refused("kv_cache_dtype", "the KV cache has the type of the activations; leave it at auto", "auto"),
    _refused("calculate_kv_scales", "the KV cache is not quantized", switch=True),
    _refused("task", _NO_POOL, "auto", "generate"),
    _refused("runner", _NO_POOL, "auto", "generate"),
    _refused("convert", _NO_POOL, "auto", "none"),
    _refused("pooler_config", _NO_POOL),
    _refused("model_impl", "models run on Kvasir's own implementations only; leave it at auto", "auto", "vllm"),
    _refused("config_format", "config.json in the Hugging Face format is read; leave it at auto", "auto", "hf"),
    _refused("tokenizer_mode", "tokenizer.json is read; leave it at auto", "auto", "hf"),
    _refused("hf_config_path", "config.json is read from the model's folder; use hf_overrides to change values"),
    _refused("code_revision", "no code is taken from model folders"),
    _refused("rope_scaling", 'give it as hf_overrides={"rope_scaling": {...}}'),
    _refused("rope_theta", 'give it as hf_overrides={"rope_theta": ...}'),
    _refused("hf_token", "log in with `hf auth login` or set HF_TOKEN for the hub client"),
    _refused("model_loader_extra_config", "the loader has no extra options"),
    _refused("ignore_patterns", "only safetensors files are read"),
    _refused("logits_processors", "custom logits processors are not loaded by name yet"),
    _refused("logprobs_mode", "log-probabilities are those of the raw logits", "raw_logprobs"),
    _refused("enable_prompt_embeds", "prompts are text or token ids", switch=True),
    _refused("disable_sliding_window", "the window is part of the model; lower max_model_len instead", switch=True),
    _ignored("use_tqdm_on_load", "the loader logs its phases", switch=True),
    _ignored("safetensors_load_strategy", "the loader maps files and reads each weight once"),
    _ignored("max_parallel_loading_workers", "one worker loads"),
    # Memory.
    _refused("cpu_offload_gb", _NO_OFFLOAD),
    _refused("offload_backend", _NO_OFFLOAD, "auto"),
    _refused("kv_offloading_size", _NO_OFFLOAD),
    _ignored("swap_space", "preempted requests are computed again, nothing is swapped"),
    _ignored("prefix_caching_hash_algo", "blocks are named by one keyed hash"),
    _refused("enable_sleep_mode", "sleeping is not supported yet; stop the engine to free its memory", switch=True),
    _ignored("disable_hybrid_kv_cache_manager", _ONE_WAY, switch=True),
    # Parallelism.
    _refused("data_parallel_rank", _ONE_HOST),
    _refused("data_parallel_start_rank", _ONE_HOST),
    _refused("data_parallel_size_local", _ONE_HOST),
    _refused("data_parallel_address", _ONE_HOST, "127.0.0.1", "localhost"),
    _ignored("data_parallel_rpc_port", _ONE_HOST),
    _ignored("data_parallel_backend", _ONE_HOST),
    _refused("data_parallel_hybrid_lb", _ONE_HOST, switch=True),
    _refused("data_parallel_external_lb", _ONE_HOST, switch=True),
    _ignored("data_parallel_supervisor_port", _ONE_HOST),
    _refused("enable_expert_parallel", _NO_MULTI, switch=True),
    _refused("decode_context_parallel_size", _NO_MULTI, 1),
    _refused("prefill_context_parallel_size", _NO_MULTI, 1),
    _refused("nnodes", _NO_MULTI, 1),
    _refused("worker_cls", "the worker cannot be replaced by name", "auto"),
    _refused("worker_extension_cls", "the worker cannot be extended by name"),
    _ignored("disable_custom_all_reduce", "one worker has nothing to reduce", switch=True),
    _ignored("ray_workers_use_nsight", "there are no Ray workers", switch=True),
    _ignored("enable_dbo", _NO_MULTI, switch=True),
    # Scheduling.
    _refused("scheduler_cls", "the scheduler cannot be replaced by name"),
    _ignored("max_num_partial_prefills", _BUILT_IN),
    _ignored("max_long_partial_prefills", _BUILT_IN),
    _ignored("num_scheduler_steps", "async_scheduling takes its place"),
    _ignored("num_lookahead_slots", _BUILT_IN),
    _ignored("scheduler_delay_factor", _BUILT_IN),
    _ignored("preemption_mode", "preempted requests are computed again"),
    _ignored("use_v2_block_manager", _ONE_WAY, switch=True),
    _ignored("stream_interval", "every step's tokens are sent"),
    _ignored("watermark", _BUILT_IN),
    _ignored("disable_async_output_proc", _ONE_WAY, switch=True),
    # Graphs and kernels.
    _ignored("performance_mode", _NO_COMPILE),
    _ignored("max_cudagraph_capture_size", "cudagraph_capture_sizes says which sizes are captured"),
    _ignored("max_seq_len_to_capture", "a captured step serves any length"),
    _ignored("attention_config", "choose with attention_backend"),
    _ignored("kernel_config", _NO_COMPILE),
    _ignored("disable_cascade_attn", "there is no cascade attention", switch=True),
    # Features to come.
    _refused("enable_lora", _NO_LORA, switch=True),
    _refused("lora_modules", _NO_LORA),
    _ignored("max_loras", _NO_LORA),
    _ignored("max_lora_rank", _NO_LORA),
    _ignored("max_cpu_loras", _NO_LORA),
    _refused("speculative_config", _NO_SPEC),
    _refused("speculative_model", _NO_SPEC),
    _ignored("num_speculative_tokens", _NO_SPEC),
    _ignored("guided_decoding_backend", "grammars are read by llguidance, whatever is named here"),
    _ignored("guided_decoding_disable_fallback", "there is one grammar library, llguidance", switch=True),
    _refused(
        "guided_decoding_disable_any_whitespace",
        'give it as structured_outputs_config={"disable_any_whitespace": true}',
        switch=True,
    ),
    _refused(
        "guided_decoding_disable_additional_properties",
        'give it as structured_outputs_config={"disable_additional_properties": true}',
        switch=True,
    ),
    _ignored("limit_mm_per_prompt", _NO_MEDIA),
    _ignored("mm_processor_kwargs", _NO_MEDIA),
    _ignored("mm_processor_cache_gb", _NO_MEDIA),
    _ignored("disable_mm_preprocessor_cache", _NO_MEDIA, switch=True),
    _ignored("skip_mm_profiling", _NO_MEDIA, switch=True),
    _refused("allowed_local_media_path", _NO_MEDIA),
    _refused("kv_transfer_config", "KV caches are not moved between engines yet"),
    _refused("kv_events_config", "KV cache events are not published yet"),
    # Server.
    _refused("tool_parser_plugin", "install the parser as a package with an entry point in kvasir.tool_parsers"),
    _refused("ssl_ciphers", "the choice of the TLS library is taken, from TLS 1.2 on"),
    _ignored("enable_ssl_refresh", "certificates are always read again when their files change", switch=True),
    _refused("middleware", "middleware is not loaded by name"),
    _refused("headless", _NO_MULTI, switch=True),
    _ignored("collect_detailed_traces", "time by phase is part of every trace and of /metrics"),
    _refused("profiler_config", "give the folder of traces as --profile DIR"),
    _refused("enable_log_outputs", "outputs are never logged", switch=True),
    _ignored("allow_credentials", "the server uses no cookies", switch=True),
    _ignored("disable_log_requests", "requests are not logged unless enable_log_requests is on", switch=True),
    _ignored("max_log_len", "prompts are never logged"),
    _ignored("uvicorn_log_level", "set KVASIR_LOG_LEVEL"),
    _ignored("disable_fastapi_docs", "there is no documentation page to turn off", switch=True),
    _ignored("chat_template_content_format", "both formats of message content are understood"),
    _ignored("disable_frontend_multiprocessing", "the core has its own process", switch=True),
    _ignored("enable_request_id_headers", "X-Request-Id is always echoed", switch=True),
    # Rarely given.
    _refused("return_tokens_as_token_ids", "requests ask for it: return_tokens_as_token_ids in the body", switch=True),
    _refused(
        "exclude_tools_when_tool_choice_none", "leave the tools out of requests that are not to use them", switch=True
    ),
    _refused("tool_server", "tools are run by whoever asks, not by the server"),
    _refused(
        "reasoning_parser_plugin", "install the parser as a package with an entry point in kvasir.reasoning_parsers"
    ),
    _refused("reasoning_config", "thoughts have no budget; turn them off with reasoning_effort none"),
    _refused("enable_tokenizer_info_endpoint", "the tokenizer's files are with the model", switch=True),
    _refused("enable_per_request_metrics", "times are in the histograms of /metrics", switch=True),
    _ignored("fingerprint_mode", "system_fingerprint is the version"),
    _ignored("fingerprint_value", "system_fingerprint is the version"),
    _refused("tokens_only", "there is no route for token ids alone; completions take and return them", switch=True),
    _refused("grpc", "the server speaks HTTP", switch=True),
    _refused("log_config_file", "set KVASIR_LOG_LEVEL, and collect standard error"),
    _refused("io_processor_plugin", "plugins of this kind are not loaded"),
    _refused("additional_config", "plugins of this kind are not loaded"),
    _refused("weight_transfer_config", "weights are read from files only"),
    _refused("ec_transfer_config", _NO_MEDIA),
    _refused("kv_offloading_backend", _NO_OFFLOAD, "native"),
    _refused("kv_cache_dtype_skip_layers", "the KV cache has the type of the activations"),
    _refused("kv_sharing_fast_prefill", "no model here shares KV between layers", switch=True),
    _refused("device_ids", "choose cards with CUDA_VISIBLE_DEVICES"),
    _refused("node_rank", _NO_MULTI, 0),
    _refused("enable_elastic_ep", _NO_MULTI, switch=True),
    _refused("enable_eplb", _NO_MULTI, switch=True),
    _ignored("dp_supervisor_probe_interval_s", _NO_MULTI),
    _ignored("dp_supervisor_probe_timeout_s", _NO_MULTI),
    _ignored("dp_supervisor_probe_failure_threshold", _NO_MULTI),
    _ignored("master_addr", _NO_MULTI),
    _ignored("master_port", _NO_MULTI),
    _ignored("all2all_backend", _NO_MULTI),
    _ignored("eplb_config", _NO_MULTI),
    _ignored("ubatch_size", _NO_MULTI),
    _ignored("distributed_timeout_seconds", _NO_MULTI),
    _ignored("numa_bind", "the worker keeps to the cores its process may use", switch=True),
    _ignored("moe_backend", _NO_COMPILE),
    _ignored("linear_backend", _NO_COMPILE),
    _ignored("ir_op_priority", _NO_COMPILE),
    _ignored("mamba_backend", "no recurrent model is supported yet"),
    _ignored("mamba_cache_mode", "no recurrent model is supported yet"),
    _ignored("mamba_cache_dtype", "no recurrent model is supported yet"),
    _ignored("enable_cumem_allocator", _BUILT_IN, switch=True),
    _ignored("prefill_schedule_interval", _BUILT_IN),
    _ignored("scheduler_reserve_full_isl", _BUILT_IN, switch=True),
    _ignored("renderer_num_workers", _BUILT_IN),
    _ignored("disable_chunked_mm_input", _NO_MEDIA, switch=True),
    _ignored("allowed_media_domains", _NO_MEDIA),
    _ignored("media_io_kwargs", _NO_MEDIA),
    _ignored("interleave_mm_strings", _NO_MEDIA, switch=True),
    _ignored("video_pruning_rate", _NO_MEDIA),
    _ignored("mm_encoder_tp_mode", _NO_MEDIA),
    _ignored("mm_encoder_attn_backend", _NO_MEDIA),
    _ignored("language_model_only", _NO_MEDIA, switch=True),
    _refused("mm_encoder_only", _NO_MEDIA, switch=True),
    _ignored("lora_dtype", _NO_LORA),
    _ignored("lora_target_modules", _NO_LORA),
    _ignored("fully_sharded_loras", _NO_LORA, switch=True),
    _refused("default_mm_loras", _NO_LORA),
    _refused("spec_method", _NO_SPEC),
    _refused("spec_model", _NO_SPEC),
    _ignored("spec_tokens", _NO_SPEC),
    _ignored("enable_prompt_tokens_details", "they are always in the usage", switch=True),
    _ignored("enable_server_load_tracking", "/load always counts", switch=True),
    _ignored("enable_ssl_refresh", "certificates are read again when they change", switch=True),
    _ignored("enable_log_deltas", "outputs are never logged", switch=True),
    _ignored("log_error_stack", "what is unexpected is logged with its stack, and nothing else is", switch=True),
    _ignored("enable_offline_docs", "the web page loads nothing from elsewhere", switch=True),
    _ignored("disable_access_log_for_endpoints", "disable_access_log turns off all of these lines"),
    _ignored("h11_max_incomplete_event_size", "the head of a request may have 64 KiB"),
    _ignored("h11_max_header_count", "a request may have 128 headers"),
    _ignored("show_hidden_metrics_for_version", "no metric is hidden"),
    _ignored("kv_cache_metrics", "the live page and /metrics show the KV cache", switch=True),
    _ignored("cudagraph_metrics", "replays are not counted", switch=True),
    _ignored("enable_mfu_metrics", "`kvasir bench` measures speed", switch=True),
    _ignored("aggregate_engine_logging", "there is one line for the engine", switch=True),
    _ignored("fail_on_environ_validation", "unknown environment variables are not read", switch=True),
    _ignored("ssl_ciphers", "TLS has the ciphers of the system's library"),
)

FOREIGN: dict[str, ForeignName] = {row.name: row for row in _ROWS}
