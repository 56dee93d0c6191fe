"""The specification of every op in plain torch: oracle of the tests, last resort of the dispatch.

*Ring*: worker. Written to be read, not to be fast. Arithmetic is float32 (float64 for float64 inputs) inside,
rounded where the op's face says so.
"""

import torch


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for float64 inputs, so that a float64 run is the oracle of a float32 one."""
    return torch.promote_types(dtype, torch.float32)
