"""The selector says why, and never replaces what was asked for."""

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
