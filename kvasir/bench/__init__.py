"""Measuring: `kvasir bench throughput | latency | serve | startup`.

Ring: front, public API and HTTP only. Input -> output: a workload -> figures, as text and as JSON.

Knows nothing about: anything inside the engine; `bench serve` measures any OpenAI-compatible server.
"""
