#!/usr/bin/env bash
# What a card must show, in one command: card.sh OUT [tests|kernels|offline|ceilings ...]   (default: all)
# Needs a python3 with torch for CUDA and Kvasir's dependencies; nothing is downloaded. Each part is bounded in time
# and writes its own file, so that a part that fails or hangs does not take the others with it.
set -uo pipefail
out=$1
shift
parts=${*:-ceilings tests kernels offline}
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$out"
{ git -C "$root" rev-parse --short HEAD 2>/dev/null || echo "no commit"; nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
  python3 -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)'; } | tee "$out/machine.txt"
for part in $parts; do
    echo "== $part"
    case $part in
        ceilings) timeout 120 python3 "$here/ceilings.py" | tee "$out/ceilings.jsonl" ;;
        tests) timeout 420 python3 -m pytest "$root/tests/gpu" -q -x --maxfail=8 -p no:cacheprovider -p no:warnings 2>&1 |
            tee "$out/tests.log" | tail -25 ;;
        kernels) timeout 180 python3 "$here/kernels/attention.py" | tee "$out/attention.jsonl"
            timeout 120 python3 "$here/kernels/sampling.py" | tee "$out/sampling.jsonl" ;;
        offline) for model in qwen3-0.6b llama-3.1-8b; do
                timeout 280 python3 "$here/bench_offline.py" --engine kvasir --model "$here/models/$model" --repeat 1 \
                    --out "$out/offline.jsonl" 2>"$out/$model.log" || tail -20 "$out/$model.log"
            done ;;
        *) echo "unknown part $part" ;;
    esac
done
