"""The OpenAI-compatible HTTP server over an `AsyncLLM`.

Ring: front. Input -> output: HTTP bytes -> prompt token ids and `SamplingParams` -> `RequestOutput` deltas -> JSON or
server-sent events. Non-streaming answers are the stream, collected: one set of functions renders both.

Knows nothing about: the scheduler, blocks, devices, torch.
"""
