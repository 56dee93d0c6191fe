"""Builds a model on its device and fills its parameters.

*Ring*: worker. *Input -> output*: ModelShape + ModelBuild + a folder of safetensors (or a seed) -> a model ready to
run. *Knows nothing about*: requests, KV caches, how a name became a folder (`config/hub.py`).

Public: `load_model` in `kvasir.loader.load`.
"""
