"""chat and complete against a live server over a scripted engine."""

import io
from collections.abc import Iterator

import pytest

from kvasir.entrypoints.cli.main import main
from kvasir.entrypoints.http.settings import ServerSettings
from tests.http.fake_engine import FakeEngine, Script
from tests.http.live import LiveServer, serving


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with serving(FakeEngine(Script(text="Fine, danke 🙂")), ServerSettings(api_keys=("k",))) as server:
        yield server


def last_prompt(live: LiveServer) -> str:
    return live.engine.tokenizer.decode(live.engine.seen[-1].prompt_token_ids)


def test_complete(live: LiveServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["complete", "--url", live.url, "--key", "k", "--max-tokens", "40", "--temperature", "0", "How?"]) == 0
    assert capsys.readouterr().out == "Fine, danke 🙂\n"
    seen = live.engine.seen[-1]
    assert (seen.params.max_tokens, seen.params.temperature) == (40, 0.0)
    monkeypatch.setattr("sys.stdin", io.StringIO("from stdin"))
    assert main(["complete", "--url", live.url + "/v1", "--key", "k", "--chat"]) == 0
    assert last_prompt(live) == "<user>from stdin\n<assistant>"


def test_chat(live: LiveServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    talk = "Hi\nAnd?\n/reset\nNew\n/system Be brief\nX\n/undo\nY\n/what\n/exit\nnever said\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(talk))
    assert main(["chat", "--url", live.url, "--key", "k"]) == 0
    out = capsys.readouterr().out
    assert out.count("Fine, danke 🙂\n") == 5 and "/system TEXT" in out
    prompts = [live.engine.tokenizer.decode(s.prompt_token_ids) for s in live.engine.seen[-5:]]
    said = "Fine, danke 🙂"
    assert prompts == [
        "<user>Hi\n<assistant>",
        f"<user>Hi\n<assistant>{said}\n<user>And?\n<assistant>",
        "<user>New\n<assistant>",
        "<system>Be brief\n<user>X\n<assistant>",
        "<system>Be brief\n<user>Y\n<assistant>",
    ]


def test_refusals_are_readable(
    live: LiveServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["complete", "--url", live.url, "x", "--model", "m"]) == 1
    assert "401" in capsys.readouterr().err
    assert main(["complete", "--url", live.url, "--key", "k", "--model", "nope", "x"]) == 1
    assert "404" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 500 + "\nshort\n"))
    assert main(["chat", "--url", live.url, "--key", "k"]) == 0, "a question that is too long does not end the talk"
    captured = capsys.readouterr()
    assert "256" in captured.err and captured.out == "Fine, danke 🙂\n"
    assert last_prompt(live) == "<user>short\n<assistant>"
