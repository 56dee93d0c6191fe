"""The loader against folders that are right, and against every way in which they are commonly wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kvasir.config.hf import load_model_shape
from kvasir.errors import ConfigError
from kvasir.loader.load import load_model
from tests.fixtures import checkpoint
from tests.models.harness import PlayedGroup, make_build


def _load(folder: Path, **kwargs: object) -> torch.nn.Module:
    return load_model(load_model_shape(folder), make_build(), folder, use_tqdm=False, **kwargs)


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a checkpoint whose tensors went through `change`."""

    def make(change: Callable[[dict[str, torch.Tensor]], None], name: str = "llama") -> Path:
        folder = tmp_path / name
        shutil.copytree(checkpoint(name), folder)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        return folder

    return make


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = dict(a.named_parameters()), dict(b.named_parameters())
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_parameters_hold_the_stacked_tensors() -> None:
    folder = checkpoint("llama")
    tensors = load_file(folder / "model.safetensors")
    parameters = dict(_load(folder).named_parameters())
    attention = "model.layers.1.self_attn"
    stacked = torch.cat([tensors[f"{attention}.{p}_proj.weight"] for p in "qkv"])
    assert torch.equal(parameters[f"{attention}.qkv_proj.weight"], stacked)
    assert torch.equal(parameters["model.norm.weight"], tensors["model.norm.weight"])
    assert not any(p.requires_grad for p in parameters.values())


@pytest.mark.parametrize("name", ["qwen2", "llama-sharded"])
def test_each_worker_reads_its_part(name: str) -> None:
    shape, whole = load_model_shape(checkpoint(name)), dict(_load(checkpoint(name)).named_parameters())
    for rank in range(2):
        build = make_build(group=PlayedGroup(rank, 2))
        part = dict(load_model(shape, build, checkpoint(name), use_tqdm=False).named_parameters())

        def half(rows: torch.Tensor, dim: int = 0, rank: int = rank) -> torch.Tensor:
            return rows.chunk(2, dim)[rank]

        assert torch.equal(part["lm_head.weight"], half(whole["lm_head.weight"]))
        layer = "model.layers.1"
        for name_of, sizes in (("self_attn.qkv_proj", [64, 32, 32]), ("mlp.gate_up_proj", [112, 112])):
            stacked = whole[f"{layer}.{name_of}.weight"].split(sizes)
            assert torch.equal(part[f"{layer}.{name_of}.weight"], torch.cat([half(rows) for rows in stacked]))
        for name_of in ("self_attn.o_proj", "mlp.down_proj"):
            assert torch.equal(part[f"{layer}.{name_of}.weight"], half(whole[f"{layer}.{name_of}.weight"], 1))
        if name == "qwen2":
            bias = whole[f"{layer}.self_attn.qkv_proj.bias"].split([64, 32, 32])
            assert torch.equal(part[f"{layer}.self_attn.qkv_proj.bias"], torch.cat([half(rows) for rows in bias]))


@pytest.mark.parametrize("num_threads", [1, 4])
def test_sharded_equals_single(num_threads: int) -> None:
    assert _same(_load(checkpoint("llama-sharded"), num_threads=num_threads), _load(checkpoint("llama")))


def test_tied_model_ignores_a_copy_of_the_head(changed: Callable[..., Path]) -> None:
    folder = changed(lambda t: t.update({"lm_head.weight": torch.zeros(3)}), "llama-tied")
    assert _same(_load(folder), _load(checkpoint("llama-tied")))


def test_old_rotary_tables_are_skipped(changed: Callable[..., Path]) -> None:
    _load(changed(lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)})))


def test_dtype_is_converted(changed: Callable[..., Path]) -> None:
    folder = changed(lambda t: t.update({k: v.to(torch.bfloat16) for k, v in t.items()}))
    weight = load_file(folder / "model.safetensors")["lm_head.weight"]
    assert torch.equal(_load(folder).lm_head.weight, weight.float())


def test_missing_tensor_is_named(changed: Callable[..., Path]) -> None:
    folder = changed(lambda t: t.pop("model.layers.1.self_attn.k_proj.weight"))
    with pytest.raises(ConfigError, match=r"1 tensors are missing.*model\.layers\.1\.self_attn\.k_proj\.weight"):
        _load(folder)


def test_unexpected_tensor_is_named(changed: Callable[..., Path]) -> None:
    folder = changed(lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}))
    with pytest.raises(ConfigError, match=r"unexpected.*model\.layers\.0\.self_attn\.q_proj\.bias"):
        _load(folder)


def test_wrong_shape_is_named_with_both_shapes(changed: Callable[..., Path]) -> None:
    folder = changed(lambda t: t.update({"model.layers.0.mlp.up_proj.weight": torch.zeros(100, 64)}))
    with pytest.raises(ConfigError, match=r"up_proj\.weight has \[100, 64\] instead of \[112, 64\]"):
        _load(folder)


def test_several_problems_come_in_one_message(changed: Callable[..., Path]) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] = torch.zeros(65)
        tensors["model.extra"] = torch.zeros(1)
        del tensors["lm_head.weight"]

    with pytest.raises(ConfigError) as error:
        _load(changed(spoil))
    assert "unexpected (the model has no such parameter): model.extra" in error.value.message
    assert "1 tensors are missing from the checkpoint: lm_head.weight" in error.value.message
    assert "model.norm.weight has [65]" in error.value.message


def test_integer_weights_are_refused(changed: Callable[..., Path]) -> None:
    folder = changed(lambda t: t.update({"lm_head.weight": torch.zeros(768, 64, dtype=torch.int8)}))
    with pytest.raises(ConfigError, match=r"lm_head\.weight is I8"):
        _load(folder)


def test_truncated_file_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "cut")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match=r"model\.safetensors cannot be read"):
        _load(folder)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("llama-sharded"), tmp_path / "sharded")
    gone = sorted(folder.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ConfigError, match=gone.name):
        _load(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {"a": "../outside.safetensors"}}'])
def test_broken_index_is_refused(tmp_path: Path, text: str) -> None:
    folder = shutil.copytree(checkpoint("llama-sharded"), tmp_path / "sharded")
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ConfigError, match="index.json"):
        _load(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_refused(tmp_path: Path, name: str) -> None:
    shutil.copy(checkpoint("llama") / "config.json", tmp_path)
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    with pytest.raises(ConfigError, match=f"pickles.*{name}"):
        _load(tmp_path)


def test_folder_without_weights(tmp_path: Path) -> None:
    shutil.copy(checkpoint("llama") / "config.json", tmp_path)
    with pytest.raises(ConfigError, match="dummy"):
        _load(tmp_path)


def test_unknown_format_and_missing_path() -> None:
    shape = load_model_shape(checkpoint("llama"))
    with pytest.raises(ConfigError, match="'gguf'"):
        load_model(shape, make_build(), checkpoint("llama"), load_format="gguf")
    with pytest.raises(ConfigError, match="folder"):
        load_model(shape, make_build())


class TestDummy:
    def _dummy(self, seed: int, name: str = "qwen3", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
        shape = load_model_shape(checkpoint(name))
        return load_model(shape, make_build(dtype=dtype), load_format="dummy", seed=seed)

    @pytest.mark.parametrize("seed", [0, 7])
    def test_seed_decides(self, seed: int) -> None:
        assert _same(self._dummy(seed), self._dummy(seed))
        assert not _same(self._dummy(seed), self._dummy(seed + 1))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_values(self, dtype: torch.dtype) -> None:
        for name, parameter in self._dummy(0, dtype=dtype).named_parameters():
            values = parameter.float()
            assert values.isfinite().all() and (values != 0).any()
            expected_mean = 1.0 if name.endswith("norm.weight") else 0.0
            assert abs(values.mean() - expected_mean) < 0.02
            assert values.std() == pytest.approx(0.02, rel=0.5)

    def test_needs_only_a_config(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(load_model_shape(checkpoint("llama")).raw))
        load_model(load_model_shape(tmp_path), make_build(), load_format="dummy")
