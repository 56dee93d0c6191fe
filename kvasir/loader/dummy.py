"""Random weights, for benchmarks and tests of models whose files are not at hand. One seed, one model."""

import torch

_STD = 0.02


@torch.no_grad()
def fill_dummy(model: torch.nn.Module, seed: int) -> None:
    """Small normal weights, drawn where the parameters are; norms lie around 1, so that signals survive."""
    generators: dict[torch.device, torch.Generator] = {}
    for name, parameter in model.named_parameters():
        device = parameter.device
        if device not in generators:
            generators[device] = torch.Generator(device).manual_seed(seed)
        mean = 1.0 if name.endswith("norm.weight") else 0.0
        parameter.normal_(mean, _STD, generator=generators[device])
