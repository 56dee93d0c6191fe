"""Attention over the paged KV cache: backends, their choice, and the ambient object that layers read.

*Ring*: worker. One ragged step (`AttentionBatch`) and this layer's query, key, value -> the attention output, with
the new keys and values written into the cache on the way.

*Knows nothing about* models, requests, the scheduler or how blocks are given out.
"""
