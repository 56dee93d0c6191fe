"""Groups of workers that share one model, and which part of each tensor a member holds.

*Ring*: worker. *Input -> output*: (rank, world size) and tensor sizes -> spans, collectives.
*Knows nothing about*: layers, models, checkpoints, requests.
"""
