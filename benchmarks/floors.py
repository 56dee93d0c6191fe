"""The least time the card allows for each workload of bench_offline.py (bf16, no overlap of phases): prompt arithmetic at the measured
matrix and attention rates, KV reads and weight reads of every decode step at the measured bandwidth. Prints floor seconds and the highest
possible ratio to the peer's measured time.   usage: python floors.py"""
import json
import os
import random

BW, MATMUL, ATTN = 2.89e12, 764e12, 602e12          # bytes/s, FLOP/s, FLOP/s: ceilings.py and gemm_ceiling.py on an H100
HERE = os.path.dirname(os.path.abspath(__file__))


def lens(n, lo, hi, r):
    """prompt lengths exactly as bench_offline.py draws them (it also draws the token ids)"""
    out = []
    for _ in range(n):
        k = r.randint(lo, hi)
        for _ in range(k):
            r.randint(5, 10000)
        out.append(k)
    return out


r = random.Random(0)
mixed = lens(256, 100, 1024, r)
mixed_out = [r.randint(100, 1024) for _ in mixed]
W = {"decode-1": ([64], [256]), "decode-32": ([512] * 32, [256] * 32), "mixed-256": (mixed, mixed_out),
     "chat-1000": (lens(1000, 256, 768, random.Random(1)), [128] * 1000), "topk-topp-256": ([128] * 256, [256] * 256),
     "long-decode-16": ([16000] * 16, [256] * 16), "prefill-8k": ([8000] * 24, [1] * 24)}
peer = {(x["model"], x["workload"]): x.get("s") for x in map(json.loads, open(f"{HERE}/results/h100/vllm-0.25.1.jsonl"))}
for name in ("qwen3-0.6b", "llama-3.1-8b"):
    c = json.load(open(f"{HERE}/models/{name}/config.json"))
    L, E, H, K, D, I = (c[k] for k in ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size"))
    body, head = L * ((H + 2 * K) * D * E + H * D * E + 3 * E * I), c["vocab_size"] * E
    kv = 2 * L * K * D * 2                            # bytes a token
    for w, (ins, outs) in W.items():
        prefill = 2 * body * sum(ins) / MATMUL + sum(2 * i * i * H * D * L for i in ins) / ATTN
        kv_s = sum((o - 1) * i + o * (o - 1) / 2 for i, o in zip(ins, outs)) * kv / BW
        weights = max((max(outs) - 1) * 2 * (body + head) / BW, sum(o - 1 for o in outs) * 2 * (body + head) / MATMUL)
        floor = prefill + kv_s + weights
        print(f"{name:13s} {w:15s} prefill {prefill:6.2f} kv {kv_s:5.2f} weights {weights:5.2f} floor {floor:7.3f} s; peer {peer[name, w]:7.3f} s = {floor / peer[name, w]:4.0%} of the card; best ratio {peer[name, w] / floor:.2f}")
