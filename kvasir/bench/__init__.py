"""Measuring: `kvasir bench throughput | latency | serve | startup | kernels`.

Ring: front, public API and HTTP only; `worker.py` alone imports torch, to time ops. Input -> output: a workload ->
figures, as text, JSON and a chart.

Knows nothing about: anything inside the engine; `bench serve` measures any OpenAI-compatible server.
"""
