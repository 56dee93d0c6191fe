"""The card is opened beside the import of torch, and nobody minds when there is none."""

import ctypes
import sys

import pytest

from kvasir.platforms import early_cuda


class Driver:
    def __init__(self, init_result: int = 0):
        self.calls: list[str] = []
        self.init_result = init_result

    def cuInit(self, flags: int) -> int:
        self.calls.append("init")
        return self.init_result

    def cuDeviceGet(self, device: object, ordinal: int) -> int:
        self.calls.append(f"device {ordinal}")
        return 0

    def cuDevicePrimaryCtxRetain(self, context: object, device: object) -> int:
        self.calls.append("context")
        return 0


def opened(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> list[str]:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    monkeypatch.setitem(sys.modules, "torch.nn", object())
    early_cuda.open_beside_imports().join(10)
    return driver.calls


def test_the_first_card_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(monkeypatch, Driver()) == ["init", "device 0", "context"]


def test_a_driver_that_fails_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(monkeypatch, Driver(init_result=100)) == ["init"]


def test_no_driver_is_asked_before_torch_has_loaded_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    monkeypatch.setattr(early_cuda, "PATIENCE_S", 0.1)
    monkeypatch.delitem(sys.modules, "torch.nn", raising=False)
    thread = early_cuda.open_beside_imports()
    thread.join(10)
    assert not thread.is_alive()
    assert driver.calls == []


def test_no_driver_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setitem(sys.modules, "torch.nn", object())
    thread = early_cuda.open_beside_imports()
    thread.join(10)
    assert not thread.is_alive()
