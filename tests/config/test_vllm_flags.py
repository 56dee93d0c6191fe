"""Every flag of `vllm serve` is known here by its name: taken, ignored or refused with a sentence."""

from kvasir.config import EngineArgs, ServerArgs
from kvasir.config.vllm_names import FOREIGN

# Of vLLM 0.25.1, without the spellings with one dash.
FLAGS = """
additional-config aggregate-engine-logging all2all-backend allow-credentials allowed-headers
allowed-local-media-path allowed-media-domains allowed-methods allowed-origins api-key api-server-count
async-scheduling attention-backend attention-config block-size calculate-kv-scales chat-template
chat-template-content-format code-revision collect-detailed-traces compilation-config config config-format
convert cpu-offload-gb cudagraph-capture-sizes cudagraph-metrics data-parallel-hybrid-lb data-parallel-size
data-parallel-size-local data-parallel-supervisor-port decode-context-parallel-size default-chat-template-kwargs
default-mm-loras device-ids disable-access-log-for-endpoints disable-chunked-mm-input disable-custom-all-reduce
disable-fastapi-docs disable-hybrid-kv-cache-manager disable-log-stats disable-uvicorn-access-log
distributed-executor-backend distributed-timeout-seconds download-dir dp-supervisor-probe-failure-threshold
dp-supervisor-probe-interval-s dp-supervisor-probe-timeout-s dtype ec-transfer-config enable-auto-tool-choice
enable-chunked-prefill enable-cumem-allocator enable-dbo enable-elastic-ep enable-eplb enable-expert-parallel
enable-force-include-usage enable-log-deltas enable-log-outputs enable-lora enable-mfu-metrics
enable-offline-docs enable-per-request-metrics enable-prefix-caching enable-prompt-embeds
enable-prompt-tokens-details enable-request-id-headers enable-server-load-tracking enable-sleep-mode
enable-ssl-refresh enable-tokenizer-info-endpoint enforce-eager eplb-config exclude-tools-when-tool-choice-none
fail-on-environ-validation fingerprint-mode fingerprint-value fully-sharded-loras generation-config
gpu-memory-utilization h11-max-header-count h11-max-incomplete-event-size headless hf-config-path hf-overrides
hf-token host ignore-patterns interleave-mm-strings io-processor-plugin ir-op-priority kernel-config
kv-cache-dtype kv-cache-dtype-skip-layers kv-cache-memory-bytes kv-cache-metrics kv-events-config
kv-offloading-backend kv-offloading-size kv-sharing-fast-prefill kv-transfer-config language-model-only
limit-mm-per-prompt linear-backend load-format log-config-file log-error-stack logits-processors logprobs-mode
long-prefill-token-threshold lora-dtype lora-modules lora-target-modules mamba-backend mamba-cache-dtype
mamba-cache-mode master-addr master-port max-cpu-loras max-cudagraph-capture-size max-log-len max-logprobs
max-long-partial-prefills max-lora-rank max-loras max-model-len max-num-batched-tokens max-num-partial-prefills
max-num-seqs max-parallel-loading-workers media-io-kwargs middleware mm-encoder-attn-backend mm-encoder-only
mm-encoder-tp-mode mm-processor-cache-gb mm-processor-kwargs model model-impl model-loader-extra-config
moe-backend nnodes node-rank num-gpu-blocks-override numa-bind offload-backend optimization-level
otlp-traces-endpoint override-generation-config performance-mode pipeline-parallel-size pooler-config port
prefill-context-parallel-size prefill-schedule-interval prefix-caching-hash-algo profiler-config quantization
quantization-config reasoning-config reasoning-parser reasoning-parser-plugin renderer-num-workers response-role
return-tokens-as-token-ids revision root-path runner safetensors-load-strategy scheduler-cls
scheduler-reserve-full-isl scheduling-policy seed show-hidden-metrics-for-version shutdown-timeout
skip-mm-profiling skip-tokenizer-init spec-method speculative-config ssl-ca-certs ssl-cert-reqs ssl-certfile
ssl-ciphers ssl-keyfile stream-interval structured-outputs-config tensor-parallel-size tokenizer tokenizer-mode
tokenizer-revision tokens-only tool-call-parser tool-parser-plugin tool-server trust-remote-code
trust-request-chat-template ubatch-size uds uvicorn-log-level video-pruning-rate watermark
weight-transfer-config worker-cls worker-extension-cls grpc
""".split()


def known() -> set[str]:
    options = EngineArgs.options() | ServerArgs.options()
    flags = {flag.removeprefix("--") for option in options.values() for flag in option.flags}
    return flags | {name.replace("_", "-") for name in FOREIGN} | {"config"}


def test_all_are_known() -> None:
    assert len(FLAGS) > 200 and set(FLAGS) <= known()


def test_no_sentence_is_a_fragment() -> None:
    for row in FOREIGN.values():
        assert not row.sentence.endswith(".") and len(row.sentence) > 15, row
