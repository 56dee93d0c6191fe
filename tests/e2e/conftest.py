import pytest
import torch


@pytest.fixture(autouse=True)
def audited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message goes through the codec, every step ends with an audit of all blocks."""
    monkeypatch.setenv("KVASIR_CHECK_MESSAGES", "1")
    monkeypatch.setenv("KVASIR_CHECK_INTEGRITY", "1")
    torch.set_num_threads(1)
