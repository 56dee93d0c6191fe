"""The selector says why, and never replaces what was asked for."""

import sys
from pathlib import Path

import pytest
import torch

from kvasir.attention.backend import AttentionNeed
from kvasir.attention.registry import backend_names, register_backend
from kvasir.attention.selector import get_attn_backend
from kvasir.errors import ConfigError
from kvasir.platforms.native import native_library


def need(device: str = "cpu", dtype: torch.dtype = torch.float32, **more: object) -> AttentionNeed:
    return AttentionNeed(device, dtype, 64, 8, 2, 16, **more)


def test_cpu_takes_the_native_kernels_where_they_are() -> None:
    backend, reasons = get_attn_backend(need())
    if native_library().handle:
        assert reasons == ["cpp: chosen, first on cpu that fits"]
    else:
        assert "cannot be imported" in reasons[0]
    assert backend.name == reasons[-1].split(":")[0]
    assert get_attn_backend(need(dtype=torch.float16))[0].name == "cpu"


def test_refusals_are_told_in_order() -> None:
    backend, reasons = get_attn_backend(need(dtype=torch.float8_e4m3fn))
    assert backend.name == "reference"
    assert [r.split(":")[0] for r in reasons] == ["cpp", "cpu", "reference"]
    assert "float8" in reasons[1]


def test_requested_is_taken() -> None:
    backend, reasons = get_attn_backend(need(), "reference")
    assert backend.name == "reference"
    assert "requested" in reasons[0]


def test_requested_that_cannot_is_an_error_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"'cpu'.*device is cuda"):
        get_attn_backend(need("cuda", capability=(9, 0)), "cpu")


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="reference"):
        get_attn_backend(need(), "flash")


def test_unknown_device_gets_the_reference() -> None:
    assert get_attn_backend(need("xpu"))[0].name == "reference"


def test_cuda_prefers_triton_and_old_cards_get_the_reference() -> None:
    pytest.importorskip("triton")
    assert get_attn_backend(need("cuda", torch.bfloat16, capability=(9, 0)))[0].name == "triton"
    backend, reasons = get_attn_backend(need("cuda", torch.bfloat16, capability=(7, 5)))
    assert backend.name == "reference"
    assert "7.5" in reasons[0]


def test_a_taken_name_cannot_be_registered_again() -> None:
    assert "cpu" in backend_names()
    with pytest.raises(ConfigError, match="registered already"):
        register_backend("cpu", "somewhere:Else")


EXTRAS = {"flash_attn": ("flash_attn/cute", "flash-attn-4"), "flashinfer": ("flashinfer", "flashinfer")}
HOPPER = dict(device="cuda", dtype=torch.bfloat16, capability=(9, 0))


@pytest.mark.parametrize("name", EXTRAS)
def test_a_library_that_is_missing_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr("kvasir.attention.prefill.find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=rf"is not installed: pip install 'kvasir-llm\[{EXTRAS[name][1]}\]'"):
        get_attn_backend(need(**HOPPER), name)
    assert get_attn_backend(need(**HOPPER))[0].name == "triton"


@pytest.mark.parametrize("name", EXTRAS)
def test_a_library_that_is_there_is_taken_when_asked_for(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("triton")
    folder = tmp_path / EXTRAS[name][0]
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    assert get_attn_backend(need(**HOPPER), name)[0].name == name
    for wrong, reason in (
        (dict(dtype=torch.float32), "float32 is not bfloat16"),
        (dict(sliding_window=True), "sliding window"),
        (dict(soft_cap=True), "soft cap"),
        (dict(device="cpu"), "CUDA only"),
    ):
        with pytest.raises(ConfigError, match=reason):
            get_attn_backend(need(**{**HOPPER, **wrong}), name)
    sys.modules.pop(name, None)


def test_another_package_of_the_same_name_is_not_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    (tmp_path / "flash_attn.py").touch()  # as flash-attn 2, which has no `cute`
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="flash-attn-4 is not installed"):
        get_attn_backend(need(**HOPPER), "flash_attn")
    sys.modules.pop("flash_attn", None)


def test_flash_attn_names_cards_and_blocks() -> None:
    pytest.importorskip("triton")
    with pytest.raises(ConfigError, match=r"this is 8\.0"):
        get_attn_backend(need("cuda", torch.bfloat16, capability=(8, 0)), "flash_attn")
    with pytest.raises(ConfigError, match="block size 128 is none of 16, 32, 64"):
        get_attn_backend(AttentionNeed("cuda", torch.bfloat16, 64, 8, 2, 128, capability=(9, 0)), "flash_attn")
