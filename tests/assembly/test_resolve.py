"""resolve(): from a folder with a config.json to a frozen config."""

import dataclasses
import json
import logging
from pathlib import Path

import pytest

from kvasir.assembly import gather_facts, resolve
from kvasir.assembly.core import CoreSettings
from kvasir.assembly.front import _environment, _make_supervisor
from kvasir.assembly.pairs import PAIRS, RequestPairs, Verdict, check_pairs
from kvasir.assembly.resolve import find_model
from kvasir.config import AUTO, EngineArgs, KvasirConfig, compile_json
from kvasir.config.option import options_of
from kvasir.errors import ConfigError, UserError
from kvasir.messages import EngineCoreRequest, Ready, SamplingParams
from tests.assembly.shapes import CPU, LARGE

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tiny"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    return path


def resolved(folder: Path, *, usage="offline", facts=CPU, **options) -> KvasirConfig:
    return resolve(EngineArgs(model=folder, **options), usage=usage, facts=facts).config


def test_nothing_is_auto_afterwards_and_all_is_frozen(folder: Path):
    config = resolved(folder)
    for field in dataclasses.fields(config):
        section = getattr(config, field.name)
        assert all(getattr(section, name) != AUTO for name in options_of(type(section)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model.dtype = "float16"
    with pytest.raises(ConfigError, match="still auto"):
        dataclasses.replace(config, device=dataclasses.replace(config.device, device=AUTO))


def test_what_was_asked_for_stands(folder: Path):
    config = resolved(folder, max_model_len=100, max_num_seqs=3, max_num_batched_tokens=7, block_size=4, seed=5)
    assert (config.model.max_model_len, config.model.max_model_len_is_auto, config.model.seed) == (100, False, 5)
    assert (config.scheduler.max_num_seqs, config.scheduler.max_num_batched_tokens) == (3, 7)
    assert config.cache.block_size == 4


def test_a_small_token_budget_alone_bounds_the_requests(folder: Path):
    assert resolved(folder, max_num_batched_tokens=16).scheduler.max_num_seqs == 16


def test_usage_changes_the_budget(folder: Path):
    assert resolved(folder, usage="server").scheduler.max_num_batched_tokens == 2048
    assert resolved(folder, usage="offline").scheduler.max_num_batched_tokens == 4096


def test_paths(folder: Path, tmp_path: Path):
    config = resolved(folder)
    assert config.model.model_path == config.model.tokenizer_path == str(folder)
    assert config.model.generation_config == "none"
    (folder / "generation_config.json").write_text("{}")
    assert resolved(folder).model.generation_config == str(folder)
    assert resolved(folder, generation_config="vllm").model.generation_config == "none"
    with pytest.raises(ConfigError, match=r"has no generation_config\.json"):
        resolved(folder, generation_config=str(tmp_path))
    assert resolved(folder, tokenizer=str(tmp_path)).model.tokenizer_path == str(tmp_path)


def test_hf_overrides_reach_the_shape(folder: Path):
    args = EngineArgs(model=folder, hf_overrides={"max_position_embeddings": 64})
    out = resolve(args, facts=CPU)
    assert out.shape.max_position_embeddings == out.config.model.max_model_len == 64


def test_no_such_model(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such folder"):
        resolved(tmp_path / "nothing")


def test_the_bundled_model_answers_to_its_name():
    assert (find_model("kvasir-demo") / "config.json").is_file()


def test_every_decision_is_one_line_of_the_log(folder: Path, monkeypatch: pytest.MonkeyPatch):
    lines: list[str] = []
    monkeypatch.setattr(logging.getLogger("kvasir.assembly.resolve"), "info", lambda f, *a: lines.append(f % a))
    out = resolve(EngineArgs(model=folder), facts=CPU)
    assert lines == [str(d) for d in out.decisions]
    assert "max_model_len = 512 (what the model was made for)" in lines


def test_it_travels_to_another_process(folder: Path):
    config = resolved(folder, hf_overrides={"a": {"b": [1, 2.5]}})
    assert KvasirConfig.decode(config.encode()) == config


def test_facts_of_this_machine():
    facts = gather_facts(EngineArgs(device="cpu"))
    assert facts.device == "cpu" and facts.cpu_cores >= 1 and facts.memory_bytes > 2**28


def test_cuda_that_is_hidden_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gather_facts(EngineArgs()).device == "cpu"
    with pytest.raises(ConfigError, match="hides every card"):
        gather_facts(EngineArgs(device="cuda"))


# Each option's value that differs from its default, for those that a tiny model on a CPU can have.
CHANGES = {
    "dtype": "float16",
    "max_model_len": 100,
    "enforce_eager": True,
    "block_size": 32,
    "max_num_seqs": 7,
    "max_num_batched_tokens": 999,
    "attention_backend": "reference",
    "seed": 9,
    "served_model_name": ["x"],
    "chat_template": "x",
    "skip_tokenizer_init": True,
    "max_logprobs": 3,
    "override_generation_config": {"temperature": 1.0},
    "generation_config": "none",
    "gpu_memory_utilization": 0.5,
    "kv_cache_memory": 10**8,
    "num_gpu_blocks_override": 500,
    "enable_prefix_caching": False,
    "enable_chunked_prefill": False,
    "long_prefill_token_threshold": 64,
    "scheduling_policy": "priority",
    "async_scheduling": False,
    "max_queued_requests": 12,
    "max_queued_tokens": 5000,
    "max_queue_wait": 3.0,
    "forecast_kv_growth": False,
    "distributed_executor_backend": "mp",
    "cpu_threads": 1,
    "load_format": "dummy",
    "download_dir": "/nowhere",
    "max_core_restarts": 1,
    "structured_outputs_config": {"disable_any_whitespace": True},
    "engine_iteration_timeout": 9.0,
    "engine_load_timeout": 9.0,
    "engine_compile_timeout": 9.0,
    "incident_dir": "/nowhere",
    "standby_core": True,
    "optimization_level": 1,
    "compilation_config": {"mode": 3},
    "disable_log_stats": True,
    "log_stats_interval_s": 5.0,
    "enable_log_requests": True,
    "metrics_prefix": "vllm",
    "otlp_traces_endpoint": "http://localhost:4318",
    "enable_step_times": True,
    "profile": "/nowhere",
}
# Fixed by this version or by the machine, or they choose the model itself.
UNCHANGEABLE = {"model", "tokenizer", "revision", "tokenizer_revision", "hf_overrides", "trust_remote_code"} | {
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",  # offline there is one core
    "device",
    "cudagraph_mode",  # nothing is captured on a CPU
    "cudagraph_capture_sizes",
    "cudagraph_mixed_sizes",
}


def compute_hash(folder: Path, facts=CPU, **options) -> str:
    out = resolve(EngineArgs(model=folder, **options), facts=facts)
    return out.config.compute_hash(out.shape)


def test_every_option_is_in_the_hash_test():
    assert EngineArgs.options().keys() == CHANGES.keys() | UNCHANGEABLE


@pytest.mark.parametrize("name", CHANGES)
def test_hash_by_option(folder: Path, name: str):
    # Others stay fixed, so that no rule carries the change on to them.
    fixed = {"max_num_seqs": 8, "max_num_batched_tokens": 1000, "max_model_len": 128}
    before = compute_hash(folder, **fixed)
    after = compute_hash(folder, **fixed | {name: CHANGES[name]})
    assert (before != after) == EngineArgs.options()[name].affects_graph


@pytest.mark.parametrize(
    "details",
    [
        {"backend": "eager"},
        {"custom_ops": ["none"]},
        {"custom_ops": ["-linear"]},
        {"pass_config": {"fuse_rms_norm": False}},
        {"inductor_compile_config": {"cpp.threads": 1}},
    ],
)
def test_hash_by_how_it_is_compiled(folder: Path, details: dict):
    plain = compute_hash(folder, optimization_level=2)
    assert compute_hash(folder, optimization_level=2, compilation_config=details) != plain
    assert compute_hash(folder, optimization_level=3) != plain
    assert compute_hash(folder, optimization_level=2, enforce_eager=True) != plain
    assert compute_hash(folder, optimization_level=0, compilation_config=details) == compute_hash(folder)


def test_what_is_compiled_how(folder: Path):
    def how(facts=CPU, **options) -> tuple[int, dict]:
        found = resolved(folder, facts=facts, **options).compilation
        return found.optimization_level, found.compilation_config

    assert how() == how(compilation_config={"mode": 0}) == (0, {})
    assert how(compilation_config={"mode": "VLLM_COMPILE"}) == how(optimization_level=2)
    assert how(compilation_config={"mode": 3}, optimization_level=1) == how(optimization_level=1)
    assert how(optimization_level=3, enforce_eager=True) == (0, {})
    assert how(optimization_level=1)[1]["backend"] == "eager" and how(optimization_level=2)[1]["backend"] == "inductor"
    assert all(len(how(optimization_level=level)[1]["opaque_ops"]) == len(compile_json.OPS) for level in (1, 2, 3))
    assert how(optimization_level=2, compilation_config={"custom_ops": ["none"]})[1]["opaque_ops"] == []
    ops = how(LARGE, optimization_level=2, compilation_config={"custom_ops": ["none", "+linear", "+rms_norm"]})
    assert ops[1]["opaque_ops"] == ["rms_norm", "linear"]
    tuned = how(optimization_level=3, compilation_config={"inductor_compile_config": {"max_autotune": False, "a": 1}})
    assert tuned[1]["inductor_options"] == {"max_autotune": False, "coordinate_descent_tuning": True, "a": 1}
    off = how(
        optimization_level=2, compilation_config={"pass_config": {"fuse_rms_norm": False, "fuse_silu_and_mul": True}}
    )
    assert off[1]["passes_off"] == ["fuse_rms_norm"]


def test_graph_options_may_come_with_the_compilation_config(folder: Path):
    details = {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 8]}
    found = resolved(folder, facts=LARGE, compilation_config=details).compilation
    assert (found.cudagraph_mode, found.cudagraph_capture_sizes) == ("full_decode_only", [1, 8])
    assert found.optimization_level == 0
    with pytest.raises(ConfigError, match="is 'none', and 'full_decode_only' in compilation_config"):
        resolved(folder, facts=LARGE, compilation_config=details, cudagraph_mode="none")
    with pytest.raises(ConfigError, match="must be one of none, full_decode_only, full"):
        resolved(folder, facts=LARGE, compilation_config={"cudagraph_mode": "PIECEWISE"})


def test_hash_by_model_device_and_extra(folder: Path):
    base = compute_hash(folder)
    assert compute_hash(folder) == base
    assert compute_hash(folder, facts=LARGE) != base
    assert compute_hash(folder, hf_overrides={"rms_norm_eps": 1e-3}) != base
    assert compute_hash(folder, hf_overrides={"_name_or_path": "elsewhere"}) == base
    out = resolve(EngineArgs(model=folder), facts=CPU)
    assert out.config.compute_hash(out.shape, card="x") != base


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"enable_chunked_prefill": False, "max_num_batched_tokens": 256}, "256.*512"),
        ({"enable_chunked_prefill": False, "long_prefill_token_threshold": 8}, "drop one of the two"),
        ({"num_gpu_blocks_override": 3, "max_model_len": 64}, "is 3.*64 tokens.*4 blocks"),
        ({"attention_backend": "triton"}, "needs a card"),
    ],
)
def test_refused_pairs(folder: Path, options: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        resolved(folder, **options)


def test_the_table_has_no_row_twice_and_every_sentence_can_be_said(folder: Path):
    assert len({frozenset((p.left, p.right)) for p in PAIRS}) == len(PAIRS)
    config = resolved(folder, num_gpu_blocks_override=64)
    check_pairs(config)
    for pair in PAIRS:
        assert pair.sentence.format(**pair.values(config)).endswith(".")
        if pair.verdict is Verdict.WORKS:
            assert pair.broken is None


def test_a_priority_that_nobody_would_heed_is_refused(folder: Path):
    def enrich(policy: str, priority: int) -> EngineCoreRequest:
        stage = RequestPairs(resolved(folder, scheduling_policy=policy))
        return stage.enrich(EngineCoreRequest("r", [1], SamplingParams(), 0, 0.0, priority=priority))

    assert enrich("priority", 3).priority == 3
    assert enrich("fcfs", 0).priority == 0
    with pytest.raises(UserError, match="--scheduling-policy priority") as caught:
        enrich("fcfs", 3)
    assert caught.value.param == "priority"


def test_a_restarted_core_is_told_what_the_last_one_measured(folder: Path):
    supervisor = _make_supervisor(resolved(folder, max_core_restarts=7, incident_dir="/x/y"))
    ready = Ready(1, 321, 16, 512, 8, 1024, "cpu", "reference")
    first, second = (CoreSettings.decode(supervisor.settings(i, known)) for i, known in ((0, None), (1, ready)))
    assert (first.epoch, first.known_num_blocks) == (0, 0)
    assert (second.epoch, second.known_num_blocks) == (1, 321)
    assert supervisor.budget.max_restarts == 7 and supervisor.deadlines.step_s == 600.0
    assert supervisor.keep_standby is None and str(supervisor.incidents.folder) == "/x/y"


def test_several_cores_share_a_cpu_and_have_a_card_each(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = EngineArgs(model=folder, data_parallel_size=2, max_num_seqs=256)
    config = resolve(args, usage="server", facts=CPU).config
    alone = resolve(EngineArgs(model=folder, max_num_seqs=256), usage="server", facts=CPU).config
    assert config.device.cpu_threads == max(1, alone.device.cpu_threads // 2)
    with pytest.raises(ConfigError, match="data_parallel_size is 2: the offline engine has one core"):
        resolve(args, usage="offline", facts=CPU)
    cards = dataclasses.replace(LARGE, num_cards=2)
    config = resolve(args, usage="server", facts=cards).config
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, 5")
    assert [_environment(config, i) for i in range(2)] == [
        {"CUDA_VISIBLE_DEVICES": "GPU-a"}, {"CUDA_VISIBLE_DEVICES": "5"}
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="data_parallel_size is 2 and 1 cards"):
        resolve(args, usage="server", facts=dataclasses.replace(LARGE, num_cards=1))
