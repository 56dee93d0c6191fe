"""The building blocks of models: projections, embeddings, norms, rotary positions, attention.

*Ring*: worker. *Input -> output*: activations of the step's tokens -> activations.
*Knows nothing about*: which model it is part of, checkpoint names, files, requests, the scheduler.

Legend: T tokens, R rows asked for logits, H query heads, K KV heads, D head size, E hidden, I inner size of the
MLP, V vocabulary.
"""
