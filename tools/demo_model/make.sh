#!/usr/bin/env bash
# Makes both models on one GPU: make.sh OUT [MINUTES] [INIT]
# A short smoke run goes first, so that a mistake costs seconds and not the whole training.
# Only the few files that matter are left in OUT, also when the run is cut short.
set -euo pipefail
out=$1
minutes=${2:-6.5}
init=${3:+--init $3}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
export PYTHONUNBUFFERED=1

collect() {
    for name in kvasir-demo kvasir-demo-draft; do
        [ -d "$work/full/$name" ] || continue
        mkdir -p "$out/$name"
        cp "$work/full/$name/config.json" "$work/full/$name/model.safetensors" "$out/$name/"
    done
    cp "$work/full/train.jsonl" "$work/report.json" "$out/" 2>/dev/null || true
}
trap collect EXIT

python3 "$here/train.py" --minutes 0.3 --probe-minutes 0.2 --out "$work/smoke"
python3 "$here/evaluate.py" "$work/smoke/kvasir-demo" --draft "$work/smoke/kvasir-demo-draft" --per-skill 4
# shellcheck disable=SC2086
python3 "$here/train.py" --minutes "$minutes" --out "$work/full" $init
python3 "$here/evaluate.py" "$work/full/kvasir-demo" --draft "$work/full/kvasir-demo-draft" \
    --failures --out "$work/report.json"
