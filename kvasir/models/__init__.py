"""Model architectures: each is a short description of how it differs from the shared decoder.

*Ring*: worker; `registry` needs no torch, so that any ring may ask what is supported.
*Input -> output*: token ids and positions of a step -> hidden states -> logits of the rows asked for.
*Knows nothing about*: files, requests, batching, sampling, quantization, which attention backend runs.
"""
