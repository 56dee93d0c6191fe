"""Everything here needs a CUDA card, and is skipped where there is none."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA card"))


@pytest.fixture(autouse=True)
def launches_leave_no_ticket() -> Iterator[None]:
    """Programs that share a result count themselves in tickets; whoever comes last leaves zeros for the next launch."""
    yield
    for name in ("paged_attention", "skinny_linear"):
        module = sys.modules.get(f"kvasir.ops.triton.{name}")
        if module is not None and torch.cuda.is_available():
            torch.cuda.synchronize()
            assert not module.tickets(torch.device("cuda", 0)).any(), name
