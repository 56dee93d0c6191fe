"""EngineArgs and ServerArgs: keywords, command line, YAML, vLLM's names."""

import argparse
from pathlib import Path

import pytest

from kvasir.config import AUTO, AsyncEngineArgs, EngineArgs, SchedulerConfig, ServerArgs
from kvasir.config.cli import OptionParser
from kvasir.config.vllm_names import FOREIGN
from kvasir.errors import ConfigError


def parse(*words: str) -> argparse.Namespace:
    parser = OptionParser(prog="kvasir serve")
    parser.add_argument("model_tag", nargs="?")
    return EngineArgs.add_cli_args(parser, include_server=True).parse_args(list(words))


def test_a_vllm_script_s_keywords():
    args = EngineArgs(
        model="m",
        load_format="dummy",
        skip_tokenizer_init=True,
        max_model_len=16896,
        gpu_memory_utilization=0.85,
        tensor_parallel_size=1,
        trust_remote_code=False,
    )
    assert (args.model, args.max_model_len, args.gpu_memory_utilization) == ("m", 16896, 0.85)
    assert args.max_num_seqs == AUTO and args.given.keys() >= {"load_format"}
    assert args.section(SchedulerConfig).enable_chunked_prefill is True
    assert AsyncEngineArgs is EngineArgs


def test_model_is_the_first_argument_and_has_a_default():
    assert EngineArgs("m").model == "m"
    assert EngineArgs().model == EngineArgs(model=None).model == "kvasir-demo"


def test_torch_dtypes_are_understood():
    class FakeDtype:
        def __str__(self) -> str:
            return "torch.bfloat16"

    assert EngineArgs(dtype=FakeDtype()).dtype == "bfloat16"
    assert EngineArgs(dtype="half").dtype == "float16"


def test_an_attribute_may_be_set_and_is_checked():
    args = EngineArgs()
    args.max_num_seqs = "1k"
    assert args.max_num_seqs == 1000
    with pytest.raises(ConfigError, match="at least 1"):
        args.max_num_seqs = 0


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("max_num_seq", "max_num_seqs"),
        ("max_num_sequences", "max_num_seqs"),
        ("enable_prefix_cache", "enable_prefix_caching"),
    ],
)
def test_unknown_names_get_the_nearest_one(name: str, near: str):
    with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
        EngineArgs(**{name: 1})


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="max_num_seqs"):
        EngineArgs().max_num_seq  # noqa: B018
    assert not hasattr(EngineArgs(), "port"), "the server's options are not the engine's"


@pytest.mark.parametrize("row", FOREIGN.values(), ids=lambda r: r.name)
def test_every_foreign_name_is_taken_at_rest_and_answered_when_used(row):
    EngineArgs(**{row.name: None})
    EngineArgs(**{row.name: row.harmless[-1]})
    if row.verdict == "refused":
        with pytest.raises(ConfigError) as caught:
            EngineArgs(**{row.name: "something"})
        assert row.name in str(caught.value) and row.sentence in str(caught.value)
    else:
        EngineArgs(**{row.name: "something"})
    assert row.name not in EngineArgs.options() | ServerArgs.options()


def test_reserved_options_say_what_to_do():
    with pytest.raises(ConfigError, match="one worker"):
        EngineArgs(tensor_parallel_size=2)
    with pytest.raises(ConfigError, match="no code from a model folder"):
        EngineArgs(trust_remote_code=True)


def test_command_line():
    ns = parse("m", "--max_num_seqs", "32k", "--no-enable-prefix-caching", "--max-model-len=-1", "-tp", "1")
    args = EngineArgs.from_cli_args(ns)
    assert args.given == {
        "model": "m",
        "max_num_seqs": 32_000,
        "enable_prefix_caching": False,
        "max_model_len": AUTO,
        "tensor_parallel_size": 1,
    }


def test_server_options_come_from_the_same_line():
    ns = parse("--port", "8001", "--api-key", "a", "b", "--api-key", "c", "--enforce-eager")
    assert ServerArgs.from_cli_args(ns).given == {"port": 8001, "api_key": ["a", "b", "c"]}
    assert EngineArgs.from_cli_args(ns).given == {"enforce_eager": True}


def test_aliases():
    assert EngineArgs.from_cli_args(parse("--kv-cache-memory-bytes", "1GiB")).kv_cache_memory == 2**30
    assert EngineArgs(kv_cache_memory_bytes=5).kv_cache_memory == 5


def test_two_models_are_one_too_many():
    with pytest.raises(ConfigError, match="two models"):
        EngineArgs.from_cli_args(parse("a", "--model", "b"))
    assert EngineArgs.from_cli_args(parse("a", "--model", "a")).model == "a"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--max-num-seq", "3"], "did you mean --max-num-seqs"),
        (["--quantization", "awq"], "quantized weights are not supported yet"),
        (["--enable-lora"], "merge the adapter"),
    ],
)
def test_wrong_flags_are_answered(words: list[str], answer: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as caught:
        parse(*words)
    assert caught.value.code == 2
    assert answer in capsys.readouterr().err


def test_foreign_flags_at_rest_and_ignored_ones_pass():
    ns = parse("m", "--disable-log-requests", "--swap-space", "4", "--kv-cache-dtype", "auto", "--max-num-seqs", "8")
    assert EngineArgs.from_cli_args(ns).given == {"model": "m", "max_num_seqs": 8}


def test_help_shows_every_flag_and_no_foreign_one(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    for option in (EngineArgs.options() | ServerArgs.options()).values():
        assert option.flag in text
    assert "--quantization" not in text


def test_yaml_under_the_command_line(tmp_path: Path):
    file = tmp_path / "kvasir.yaml"
    file.write_text("model: from-file\nmax-num-seqs: 8\nmax_model_len: 4k\nport: 9000\nhf_overrides: {a: 1}\n")
    ns = parse("--config", str(file), "--max-num-seqs", "16")
    args = EngineArgs.from_cli_args(ns)
    assert (args.model, args.max_num_seqs, args.max_model_len) == ("from-file", 16, 4000)
    assert args.hf_overrides == {"a": 1}
    assert ServerArgs.from_cli_args(ns).port == 9000
    assert EngineArgs.from_yaml(str(file)).max_num_seqs == 8


@pytest.mark.parametrize(
    ("text", "answer"), [("max_num_seq: 3", "did you mean"), ("- a\n- b", "option: value"), ("a: [", "not valid YAML")]
)
def test_wrong_yaml(tmp_path: Path, text: str, answer: str):
    file = tmp_path / "kvasir.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=answer):
        EngineArgs.from_yaml(str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        EngineArgs.from_yaml(str(tmp_path / "none.yaml"))


def test_api_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KVASIR_API_KEY", "secret")
    assert ServerArgs().api_keys() == ("secret",)
    assert ServerArgs(api_key=["given"]).api_keys() == ("given",)
    monkeypatch.delenv("KVASIR_API_KEY")
    assert ServerArgs().api_keys() == ()


@pytest.mark.parametrize("words", [("-O2",), ("-O", "2"), ("--optimization-level", "2"), ("--optimization_level=2",)])
def test_levels_on_the_command_line(words):
    assert EngineArgs.from_cli_args(parse(*words)).optimization_level == 2


@pytest.mark.parametrize("level", [-1, 4])
def test_levels_that_do_not_exist(level):
    with pytest.raises(ConfigError, match="between 0 and 3"):
        EngineArgs(optimization_level=level)


def test_compilation_config_on_the_command_line():
    text = '{"mode": 3, "custom_ops": ["none", "+linear"], "pass_config": {"fuse_rms_norm": false, "enable_sp": false}}'
    for flag in ("-cc", "--compilation-config", "--compilation_config"):
        assert EngineArgs.from_cli_args(parse(flag, text)).compilation_config["mode"] == 3


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"splitting_ops": []}, "no field splitting_ops: a model is split at the layers"),
        ({"compile_sizes": [1]}, "no field compile_sizes: one compilation serves"),
        ({"backnd": "eager"}, "did you mean backend"),
        ({"mode": 1}, "-O0 to -O3 say more"),
        ({"backend": "tensorrt"}, "none of eager, inductor"),
        ({"custom_ops": ["+rope"]}, r"'\+rope' is none of"),
        ({"custom_ops": "all"}, "it is a list"),
        ({"pass_config": {"fuse_norm_quant": True}}, "quantized activations are not supported"),
        ({"pass_config": {"fuse_all": True}}, "is no pass; there are fuse_rms_norm"),
        ({"pass_config": {"fuse_rms_norm": 1}}, "true or false"),
        ({"inductor_compile_config": 3}, "object of options"),
        ({"debug_dump_path": 3}, "path of a folder"),
        ("[1]", "must be a JSON object"),
    ],
)
def test_a_compilation_config_that_cannot_be(value, words):
    with pytest.raises(ConfigError, match=words):
        EngineArgs(compilation_config=value)
