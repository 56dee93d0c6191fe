"""How a linear layer's weight is stored and multiplied.

*Ring*: worker. *Input -> output*: a layer's spans -> its parameters; activations -> activations.
*Knows nothing about*: models, checkpoints' names, requests.
"""
