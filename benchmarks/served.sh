#!/usr/bin/env bash
# Rows of a served model on a card: served.sh OUT MODEL TOKENIZER   (a shape in benchmarks/models; any folder with a tokenizer)
# Prints the time from the command to a healthy server, then one JSON line for 1, 64 and 512 clients.
set -euo pipefail
out=$1 model=$2 tokenizer=$3 port=${PORT:-8011}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
kvasir="python3 -m kvasir.entrypoints.cli.main"
start=$(date +%s.%N)
$kvasir serve "$here/models/$model" --load-format dummy --tokenizer "$tokenizer" --max-model-len 16896 \
    --gpu-memory-utilization 0.85 --port "$port" --disable-access-log >"$out/serve-$model.log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true; wait $server || true' EXIT  # the port and the card are free again when this ends
until curl -s -o /dev/null -m 1 -f "localhost:$port/health"; do
    kill -0 $server || { tail -20 "$out/serve-$model.log"; exit 1; }
    sleep 0.05
done
python3 -c "import sys, time; print('healthy after', round(time.time() - $start, 2), 's')"
sleep "${SETTLE:-4}"
for load in 1:30 64:256 512:1024; do
    clients=${load%:*}
    $kvasir bench serve --port "$port" --input-len 512 --output-len 128 --vocab 300:10000 --temperature 0.6 --json \
        --no-progress --num-prompts "${load#*:}" --max-concurrency "$clients" --bench-seed "$clients" |
        tr -d '\n' | tee "$out/http-$model-c$clients.json"
    echo
done
