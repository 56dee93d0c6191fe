"""`kvasir serve --model-dir` as a process, on real engines: the bundled model, its draft sibling and two tiny ones."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.fixtures import checkpoint
from tests.http import sse
from tests.http.test_live import process

ASSETS = Path(str(files("kvasir"))) / "assets"
MODELS = {
    "kvasir-demo": ASSETS / "kvasir-demo",
    "kvasir-demo-draft": ASSETS / "kvasir-demo-draft",
    "tiny/qwen3": checkpoint("qwen3"),
    "tiny/llama": checkpoint("llama"),
}
ADMIN = "an-admin-key-for-tests"
CLIENT = httpx.Client(verify=False, trust_env=False, headers={"authorization": f"Bearer {ADMIN}"})
FLAGS = ("--admin-api-key", ADMIN, "--kv-cache-memory", "16MiB", "--models-max", "2", "--max-core-restarts", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, path in MODELS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[tuple[str, int]]:
    with process("--model-dir", str(folder), *FLAGS, model="") as (url, popen):
        yield url, popen.pid


def states(url: str) -> dict[str, Any]:
    return {m["id"]: m["status"] for m in CLIENT.get(url + "/v1/models").json()["data"]}


def cores(server_pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if int(stat[1]) == server_pid and stat[0] != "Z" and b"assembly.core" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def complete(url: str, model: str, **more: Any) -> Any:
    body = {"model": model, "prompt": "Hello there", "max_tokens": 8, "temperature": 0, "ignore_eos": True, **more}
    response = CLIENT.post(url + "/v1/completions", json=body, timeout=90)
    assert response.status_code == 200, response.text
    return response.json()


def test_models_come_and_go(server: tuple[str, int]) -> None:
    url, pid = server
    assert {name: status["value"] for name, status in states(url).items()} == dict.fromkeys(sorted(MODELS), "unloaded")
    assert cores(pid) == []
    texts = {}
    for name in ("kvasir-demo", "kvasir-demo-draft", "tiny/qwen3"):
        answer = complete(url, name)
        assert answer["model"] == name and answer["usage"]["completion_tokens"] == 8
        texts[name] = answer["choices"][0]["text"]
        assert len(cores(pid)) <= 2
    assert len(set(texts.values())) == 3, "each model says its own"
    loaded = {name for name, status in states(url).items() if status["value"] == "loaded"}
    assert loaded == {"kvasir-demo-draft", "tiny/qwen3"}
    assert complete(url, "kvasir-demo")["choices"][0]["text"] == texts["kvasir-demo"], "also after coming back"
    client = OpenAI(base_url=url + "/v1", api_key=ADMIN, max_retries=0)
    chat = client.chat.completions.create(model="kvasir-demo", messages=[{"role": "user", "content": "Hi!"}])
    assert chat.choices[0].message.content


def test_a_killed_core_ends_its_model_only(server: tuple[str, int]) -> None:
    url, pid = server
    for name in states(url):
        CLIENT.post(url + "/admin/models/unload", json={"model": name}, timeout=60)
    assert cores(pid) == []
    complete(url, "tiny/llama")
    (llama,) = cores(pid)
    complete(url, "tiny/qwen3")
    streamed: list[Any] = []

    def stream() -> None:
        body = {"model": "tiny/qwen3", "prompt": "Hello", "max_tokens": 300, "ignore_eos": True, "stream": True}
        streamed.append(CLIENT.post(url + "/v1/completions", json=body, timeout=60))

    thread = threading.Thread(target=stream)
    thread.start()
    time.sleep(0.2)
    os.kill(llama, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while states(url)["tiny/llama"]["value"] != "failed":
        assert time.monotonic() < deadline, states(url)
        time.sleep(0.05)
    assert "SIGKILL" in states(url)["tiny/llama"]["reason"]
    thread.join()
    whole = sse.collect(sse.events(streamed[0]), chat=False, usage=False)
    assert whole["choices"][0]["finish_reason"] == "length"
    assert CLIENT.get(url + "/health").status_code == 200
    assert CLIENT.post(url + "/admin/models/load", json={"model": "tiny/llama"}, timeout=60).status_code == 200
    assert complete(url, "tiny/llama")["choices"][0]["text"]


def test_sigterm_while_a_model_loads(folder: Path) -> None:
    with process("--model-dir", str(folder), *FLAGS, model="") as (url, popen):
        thread = threading.Thread(
            target=lambda: CLIENT.post(
                url + "/v1/completions", json={"model": "kvasir-demo", "prompt": "x"}, timeout=60
            )
        )
        thread.start()
        while states(url)["kvasir-demo"]["value"] != "loading":
            time.sleep(0.01)
        while not (started := cores(popen.pid)):
            time.sleep(0.01)
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(20) == 0
        thread.join()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{core}").exists() for core in started):  # they find that nobody wants them any more
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_model_of_two_cores_comes_and_goes_whole(folder: Path) -> None:
    with process("--model-dir", str(folder), *FLAGS, "--data-parallel-size", "2", model="") as (url, popen):
        body = {"model": "tiny/qwen3", "prompt": "Hello", "max_tokens": 8, "ignore_eos": True}
        texts = {
            CLIENT.post(url + "/v1/completions", json={**body, "temperature": 0}, timeout=60).text for _ in range(4)
        }
        assert len({json.loads(text)["choices"][0]["text"] for text in texts}) == 1
        assert len(cores(popen.pid)) == 2
        assert states(url)["tiny/qwen3"]["memory_bytes"] > 2 * ((384 + 16) << 20), "of both"
        page = CLIENT.get(url + "/metrics").text
        assert all(f'kvasir:kv_cache_usage_perc{{engine="{i}",model_name="tiny/qwen3"}}' in page for i in range(2))
        assert CLIENT.post(url + "/admin/models/unload", json={"model": "tiny/qwen3"}, timeout=30).status_code == 200
        assert cores(popen.pid) == [] and states(url)["tiny/qwen3"]["value"] == "unloaded"
