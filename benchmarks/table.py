"""Rows of bench_offline.py and `kvasir bench serve` as a table: medians over processes, beside the peer's.

    python benchmarks/table.py                                   # results/h100, both models
    python benchmarks/table.py rows.jsonl --peer other.jsonl --model qwen3-0.6b

Ranges are shown where processes differ by more than 2 %. The floors of the ratios are `floors.py`'s.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results" / "h100"
TOTALS = ("prefill-8k", "prefix-4k")  # told by all tokens, not only those that were generated


def read(path: Path) -> dict[tuple[str, str], list[float]]:
    """(model, workload) -> tokens per second, one for each process."""
    rows: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in path.read_text().splitlines():
        row = json.loads(line)
        rate = row.get("total_tok_s" if row["workload"] in TOTALS else "out_tok_s")
        if rate is not None:
            rows[row["model"], row["workload"]].append(rate)
    return rows


def shown(rates: list[float]) -> str:
    text = f"{statistics.median(rates):,.1f}"
    if max(rates) > 1.02 * min(rates):
        text += f" ({min(rates):,.1f} to {max(rates):,.1f})"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="?", default=RESULTS / "kvasir-0.1.0.jsonl")
    parser.add_argument("--peer", type=Path, default=RESULTS / "vllm-0.25.1.jsonl")
    parser.add_argument("--model", help="this one only")
    args = parser.parse_args()

    rows, peer = read(args.rows), read(args.peer)
    print("| model | workload | processes | tok/s | peer | ratio |\n|---|---|---|---|---|---|")
    for (model, workload), rates in sorted(rows.items()):
        if args.model in (None, model):
            other = peer.get((model, workload))
            theirs, ratio = (
                ("", "") if other is None else (shown(other), f"{statistics.median(rates) / max(other):.2f}")
            )
            print(f"| {model} | {workload} | {len(rates)} | {shown(rates)} | {theirs} | {ratio} |")


if __name__ == "__main__":
    main()
