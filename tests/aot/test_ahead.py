"""Kernels compiled by forked children, for a card that is not there."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from triton.runtime import driver

from kvasir.compilation import CompileAhead
from kvasir.compilation import ahead as ahead_module
from kvasir.ops.triton.activation import silu_and_mul
from kvasir.ops.triton.norm import _rms_norm_kernel, rms_norm
from tests.aot.conftest import Card


class OtherCard(Card):
    def get_current_device(self) -> int:
        return 7  # no other test compiles for it, so no kernel is there already

    @staticmethod
    def launcher_cls(source: object, metadata: object) -> None:
        """What launches a kernel needs a card's library."""


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CompileAhead:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_active", OtherCard())
    made = CompileAhead(torch.device("cpu"))
    made._compiles = True
    return made


def steps(width: int) -> Callable[[], None]:
    x = torch.zeros(4, width, dtype=torch.bfloat16)

    def run() -> None:
        for _ in range(50):
            rms_norm(x, x[0], 1e-6)
            silu_and_mul(x)

    return run


def test_children_leave_every_kernel_on_disk(ahead: CompileAhead, tmp_path: Path) -> None:
    ahead.queue(steps(672))
    assert not list(tmp_path.rglob("*.cubin")), "queued, not compiled"
    assert not _rms_norm_kernel.device_caches[7][0], "a launch would take what is queued for a kernel"
    ahead.start()
    assert ahead.wait() == 2
    assert sorted(p.stem for p in tmp_path.rglob("*.cubin")) == ["_rms_norm_kernel", "_silu_and_mul_kernel"]


def test_a_child_that_dies_or_hangs_holds_nothing_up(ahead: CompileAhead, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead.queue(steps(864))
    monkeypatch.setattr(ahead_module, "PATIENCE_S", 0.3)
    first, second = ahead._jobs
    ahead._jobs[first] = lambda: os._exit(3)
    ahead._jobs[second] = lambda: time.sleep(60)
    ahead.start()
    children = list(ahead._children)
    ahead.wait()
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_nothing_is_queued_without_a_card() -> None:
    ahead = CompileAhead(torch.device("cpu"))
    ahead.queue(lambda: pytest.fail("a step was run"))
    ahead.start()
    assert ahead.wait() == 0
