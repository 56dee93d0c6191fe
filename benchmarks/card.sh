#!/usr/bin/env bash
# What a card must show: card.sh OUT [part ...]      (default: ceilings tests kernels offline)
# Needs a python3 with torch for CUDA and Kvasir's dependencies; nothing is downloaded. Each part is bounded in time
# and writes its own files as it goes, so that one that fails or hangs takes nothing with it.
#
#   ceilings    bandwidth and matrix rate of this card
#   tests       tests/gpu without the slow files, all at once                        (about 70 s with 14 processes)
#   slow        tests/gpu/test_compiled.py, test_device_fault.py
#   sanitizer   compute-sanitizer over kernel tests
#   kernels     attention, products among their neighbours, sampling
#   offline     one process for each model                                           (about 45 and 170 s)
#   medians     three processes of MODELS (default: both), workloads of WORKLOADS (default: all)
#   served      three servers of MODELS; needs TOKENIZER, a folder
#   host        the host's time of a decode step, by phase, at 1, 32, 256, 1024 rows; HOST_FLAGS=--no-async-scheduling
#               launches each step onto an idle card: what execute and sample lose by that was waiting, not work
#   levels      compile levels 0 to 3 at batches of 1 and 32
#   start       processes without any kernel cache, with one, and after kvasir precompile; then with Python's bytecode on disk
set -uo pipefail
out=$1
shift
parts=${*:-ceilings tests kernels offline}
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
models=${MODELS:-qwen3-0.6b llama-3.1-8b}
workloads=${WORKLOADS:-decode-1,decode-32,mixed-256,chat-1000,topk-topp-256,long-decode-16,prefill-8k,prefix-4k}
pytest="python3 -m pytest -q -p no:cacheprovider -p no:warnings"
fast="--deselect $root/tests/gpu/test_compiled.py --deselect $root/tests/gpu/test_device_fault.py"
mkdir -p "$out"
commit=${COMMIT:-$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)}
{ echo "$commit"; nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
  python3 -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)'; } | tee "$out/machine.txt"

bench() {  # MODEL PROCESS WORKLOADS
    timeout 300 python3 "$here/bench_offline.py" --engine kvasir --model "$here/models/$1" --repeat 2 --workloads "$3" \
        --tags "{\"commit\": \"$commit\", \"process\": $2}" --out "$out/offline.jsonl" 2>"$out/$1-$2.log" >>"$out/offline.txt" ||
        tail -5 "$out/$1-$2.log"
    tail -9 "$out/offline.txt" | grep -o '"workload.*' | cut -c1-120
}

start() {  # NAME CACHE: one process to its first token, with the kernel cache in that folder
    KVASIR_CACHE_DIR=$out/cache-$2 TRITON_CACHE_DIR=$out/cache-$2/triton timeout 60 python3 "$here/bench_offline.py" \
        --engine kvasir --model "$here/models/qwen3-0.6b" --workloads decode-1 --repeat 1 >/dev/null 2>"$out/start-$1.log"
    echo "$1"; grep -A18 "ready on" "$out/start-$1.log" | grep -E " s$"
}

start_as_it_is() {
    for process in ${STARTS:-cold1 cold2 warm1 warm2 precompiled}; do
        cache=${process%[12]}
        case $process in
            cold2 | warm?) cache=warm ;;
            precompiled) KVASIR_CACHE_DIR=$out/cache-$cache TRITON_CACHE_DIR=$out/cache-$cache/triton python3 -m \
                kvasir.entrypoints.cli.main precompile "$here/models/qwen3-0.6b" --load-format dummy --skip-tokenizer-init \
                --max-model-len 16896 --gpu-memory-utilization 0.85 --no-progress 2>&1 | tail -1 ;;
        esac
        start "$process" "$cache"
    done
}

# pip compiles Python files to bytecode when it installs; some machines have none and let Python write none.
start_with_bytecode() (
    unset PYTHONDONTWRITEBYTECODE
    export PYTHONPYCACHEPREFIX=$out/bytecode
    start bytecode-none b0
    start bytecode-cold1 b1; start bytecode-cold2 b2; start bytecode-warm1 b2; start bytecode-warm2 b2
)

for part in $parts; do
    echo "== $part $(date +%T)"
    case $part in
        ceilings) timeout 120 python3 "$here/ceilings.py" | tee "$out/ceilings.jsonl" ;;
        tests) timeout "${TESTS_LIMIT:-240}" $pytest "$root/tests/gpu" $fast -n "${JOBS:-14}" --timeout 100 >"$out/tests.log" 2>&1
            grep -E "^(FAILED|ERROR)|passed|failed" "$out/tests.log" | cut -c1-180 | tail -20 ;;
        slow) timeout 240 $pytest "$root/tests/gpu/test_compiled.py" "$root/tests/gpu/test_device_fault.py" -n "${JOBS:-14}" \
                --timeout 200 >"$out/slow.log" 2>&1
            grep -E "^(FAILED|ERROR)|passed|failed" "$out/slow.log" | cut -c1-180 | tail -20 ;;
        sanitizer) for check in "test_ops.py:${CHECK:-4096-1024 or 3072}" "test_attention.py:${CHECK_PROMPTS:-in_cuda_of_many or in_cuda_is}"; do
                timeout 150 compute-sanitizer --error-exitcode 9 --log-file "$out/sanitizer-${check%%.*}.log" $pytest \
                    "$root/tests/gpu/${check%%:*}" -x -k "${check#*:}" >"$out/sanitizer-${check%%.*}.txt" 2>&1
                echo "${check%%:*}: exit $?"; tail -n 3 "$out/sanitizer-${check%%.*}.txt"
            done ;;
        kernels) timeout 180 python3 "$here/kernels/attention.py" | tee "$out/attention.jsonl"
            timeout 60 python3 "$here/kernels/layer.py" | tee "$out/layer.jsonl"
            timeout 120 python3 "$here/kernels/sampling.py" | tee "$out/sampling.jsonl" ;;
        offline) for model in $models; do bench "$model" 1 "$workloads"; done ;;
        medians) for process in 1 2 3; do for model in $models; do bench "$model" $process "$workloads"; done; done ;;
        served) for process in 1 2 3; do for model in $models; do
                timeout 120 bash "$here/served.sh" "$out/served-$process" "$model" "$TOKENIZER"
            done; done ;;
        host) for rows in 1 32 256 1024; do
                timeout 90 python3 -m kvasir.entrypoints.cli.main bench throughput --model "$here/models/qwen3-0.6b" \
                    --load-format dummy --skip-tokenizer-init --input-len 64 --output-len 128 --num-prompts "$rows" \
                    --max-num-seqs "$rows" --max-model-len 1024 --num-warmups 1 --enable-step-times \
                    --output-json "$out/host-$rows.json" ${HOST_FLAGS:-} >"$out/host-$rows.log" 2>&1 &&
                    sed -n "s/^[0-9]* steps of decode rows, /$rows rows, /p" "$out/host-$rows.log" ||
                    tail -3 "$out/host-$rows.log"
            done | tee "$out/host.txt" ;;
        levels) for batch in 1 32; do
                timeout 200 python3 "$here/compile_levels.py" --model "$here/models/qwen3-0.6b" --dummy --batch $batch \
                    --input-len 256 --output-len 64 --levels 0 1 2 3 2>"$out/levels.log" | tee -a "$out/levels.jsonl"
            done ;;
        start) start_as_it_is; start_with_bytecode; rm -rf "$out"/cache-* "$out/bytecode" ;;
        *) echo "unknown part $part" ;;
    esac
done
echo "== done $(date +%T)"
