"""The command line without an engine: start-up cost, help, mistakes."""

import json
import subprocess
import sys

import pytest

from kvasir import __version__
from kvasir.entrypoints.cli.main import COMMANDS, main

HEAVY = ("torch", "transformers", "starlette", "uvicorn", "numpy", "tokenizers", "jinja2")


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_light(flag: str) -> None:
    """Nothing heavy is imported; so the time is the interpreter's own."""
    code = (
        "import sys\nfrom kvasir.entrypoints.cli.main import main\n"
        f"main([{flag!r}])\nprint('loaded:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "loaded: []" in out
    assert (__version__ in out) if flag == "--version" else all(name in out for name in COMMANDS)


@pytest.mark.parametrize("command", [*COMMANDS, "bench serve", "bench throughput", "bench latency", "bench startup"])
def test_help_of_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([*command.split(), "--help"])
    except SystemExit as e:
        code = e.code
    assert code == 0
    assert "usage: kvasir" in capsys.readouterr().out


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serv"]) == 2
    assert "did you mean 'serve'" in capsys.readouterr().err
    assert main([]) == 2
    with pytest.raises(SystemExit) as e:
        main(["serve", "--max-model-length", "5"])
    assert e.value.code == 2 and "--max-model-len" in capsys.readouterr().err
    assert main(["serve", "--port", "99999"]) == 2
    assert "65535" in capsys.readouterr().err
    assert main(["complete", "--url", "http://127.0.0.1:9", "x"]) == 1
    assert "no server answers" in capsys.readouterr().err
    assert main(["run-batch", "-i", "/nowhere.jsonl", "-o", "/tmp/x"]) == 2


def test_taken_port_is_found_before_loading(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        assert main(["serve", "--port", str(sock.getsockname()[1])]) == 2
    assert "cannot listen" in capsys.readouterr().err


def test_env(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVASIR_API_KEY", "very-secret")
    assert main(["env", "--json"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out)
    assert found["kvasir"] == __version__ and "msgspec" in found and found["attention"]
    assert "very-secret" not in out
