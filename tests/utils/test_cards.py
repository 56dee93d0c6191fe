"""Cards without torch: the driver library is replaced by one that answers from a table."""

import ctypes

import pytest

from kvasir.utils import cards
from kvasir.utils.cards import Card


class FakeDriver:
    """Speaks as much of NVML as is asked."""

    def __init__(self, *, broken: bool = False):
        self.broken = broken
        self.asked: list[object] = []
        self.closed = False

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlShutdown(self) -> int:
        self.closed = True
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: object) -> int:
        self.asked.append(index)
        return int(self.broken)

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: object) -> int:
        self.asked.append(uuid)
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: object, memory) -> int:
        memory._obj.total = 80 * 10**9
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, handle: object, major, minor) -> int:
        major._obj.value, minor._obj.value = 9, 0
        return 0


@pytest.mark.parametrize(("visible", "asked"), [("all", 0), ("2,3", 2), ("GPU-ab", b"GPU-ab"), ("MIG-1", b"MIG-1")])
def test_the_first_visible_card_is_asked(monkeypatch: pytest.MonkeyPatch, visible: str, asked: object):
    driver = FakeDriver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert cards.first_card() == Card(80 * 10**9, (9, 0))
    assert driver.asked == [asked] and driver.closed


def test_no_driver_or_a_broken_one_is_no_error(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> object:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert cards.first_card() is None
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(broken=True))
    assert cards.first_card() is None


@pytest.mark.parametrize("value", ["", "-1"])
def test_hidden_cards(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert "hides every card" in cards.why_no_cuda()
