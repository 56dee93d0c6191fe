"""Files and batches with the official client, over a scripted engine."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from kvasir.config.batch import BatchConfig
from kvasir.entrypoints.http.settings import ServerSettings
from tests.http.fake_engine import FakeEngine, Script
from tests.http.live import CLIENT, LiveServer, serving

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
ENDED = ("completed", "failed", "expired", "cancelled")


def line(custom_id: Any, url: str = COMPLETIONS, **body: Any) -> str:
    body = body or {"prompt": "x", "max_tokens": 3}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}) + "\n"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    settings = ServerSettings(batches=BatchConfig(batch_dir=str(tmp_path / "kept"), batch_max_file_size=1 << 20))
    with serving(FakeEngine(), settings) as live:
        yield live


@pytest.fixture
def client(live: LiveServer) -> OpenAI:
    return OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0)


def create(client: OpenAI, content: str, endpoint: Any = COMPLETIONS, **more: Any) -> Any:
    file = client.files.create(file=("in.jsonl", content.encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


def wait(client: OpenAI, batch: Any, *statuses: str) -> Any:
    deadline = time.monotonic() + 30
    while batch.status not in (statuses or ENDED):
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)
        batch = client.batches.retrieve(batch.id)
    return batch


def answers(client: OpenAI, file_id: str | None) -> dict[Any, Any]:
    if file_id is None:
        return {}
    rows = [json.loads(text) for text in client.files.content(file_id).text.splitlines()]
    found = {row["custom_id"]: row for row in rows}
    assert len(found) == len(rows), "a line is answered twice"
    return found


def test_files(client: OpenAI) -> None:
    content = line("a").encode()
    file = client.files.create(file=("my lines.jsonl", content), purpose="batch")
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(content), "my lines.jsonl", "batch")
    assert file.status == "processed" and file.expires_at > file.created_at + 86400
    assert client.files.retrieve(file.id) == file == client.files.wait_for_processing(file.id)
    assert client.files.content(file.id).content == content
    others = [client.files.create(file=b"%d" % i, purpose="batch").id for i in range(4)]
    assert [f.id for f in client.files.list(limit=2)] == [*reversed(others), file.id]  # pages are fetched as needed
    assert [f.id for f in client.files.list(order="asc", limit=3)] == [file.id, *others]
    assert client.files.list(purpose="batch_output").data == []
    assert client.files.delete(file.id).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="no file"):
            call(file.id)
    kept = client.files.create(file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    assert kept.expires_at == kept.created_at + 3600


def test_every_endpoint(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text="Hello!")
    messages = [{"role": "user", "content": "Hi"}]
    for endpoint, body in (
        (COMPLETIONS, {"prompt": "x", "max_tokens": 100}),
        (CHAT, {"model": "fake", "messages": messages}),
        (RESPONSES, {"input": "Hi"}),
    ):
        batch = wait(client, create(client, line("a", endpoint, **body), endpoint, metadata={"k": "v"}))
        assert (batch.status, batch.object, batch.endpoint, batch.metadata) == (
            "completed", "batch", endpoint, {"k": "v"},
        )  # fmt: skip
        assert batch.error_file_id is None
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (1, 1, 0)
        assert batch.created_at <= batch.in_progress_at <= batch.completed_at < batch.expires_at
        answer = answers(client, batch.output_file_id)["a"]
        assert answer["response"]["status_code"] == 200 and answer["error"] is None
        assert "Hello!" in json.dumps(answer["response"]["body"])
        output = client.files.retrieve(batch.output_file_id)
        assert output.purpose == "batch_output" and output.filename == f"{batch.id}_output.jsonl"
    assert all(seen.priority == 1000 for seen in live.engine.seen)
    assert [b.endpoint for b in client.batches.list(limit=1)] == [RESPONSES, CHAT, COMPLETIONS]


def test_bad_lines_go_to_the_error_file(client: OpenAI) -> None:
    content = (
        line("good")
        + "{broken\n\n"
        + '{"custom_id": "no body", "url": "/v1/completions"}\n'
        + line("bad field", prompt="x", max_tokens=-3)
        + line("other model", model="other", prompt="x")
        + line("other url", CHAT, messages=[{"role": "user", "content": "Hi"}])
        + line("streamed", prompt="x", stream=True)
        + line("good", prompt="again")
        + line("last").rstrip("\n")
    )
    batch = wait(client, create(client, content))
    counts = batch.request_counts
    assert (batch.status, counts.total, counts.completed, counts.failed) == ("completed", 9, 2, 7)
    assert answers(client, batch.output_file_id).keys() == {"good", "last"}
    rows = [json.loads(text) for text in client.files.content(batch.error_file_id).text.splitlines()]
    what = {
        (row["custom_id"], row["response"]["status_code"] if row["response"] else row["error"]["code"]) for row in rows
    }
    assert what == {
        (None, "invalid_request"),
        ("no body", "invalid_request"),
        ("bad field", 400),
        ("other model", 404),
        ("other url", 400),
        ("streamed", 400),
        ("good", "duplicate_custom_id"),
    }
    assert all(row["id"].startswith(f"batch_req_{batch.id.removeprefix('batch_')}_") for row in rows)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_lines_fails(client: OpenAI, content: str) -> None:
    batch = wait(client, create(client, content))
    assert batch.status == "failed" and "no lines" in batch.errors.data[0].message
    assert batch.output_file_id is None and batch.failed_at


def test_cancel(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text="x" * 500, delay_s=0.02)
    quick = "".join(line(f"q{i}", prompt="x", max_tokens=2) for i in range(5))
    slow = "".join(line(f"s{i}", prompt="x", max_tokens=200) for i in range(40))
    batch = wait(client, create(client, quick + slow), "in_progress")
    with pytest.raises(openai.BadRequestError, match="reads this file"):
        client.files.delete(batch.input_file_id)
    while client.batches.retrieve(batch.id).request_counts.completed < 5:
        time.sleep(0.02)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = wait(client, batch)
    assert batch.status == "cancelled" and batch.cancelling_at <= batch.cancelled_at
    assert answers(client, batch.output_file_id).keys() == {f"q{i}" for i in range(5)}
    errors = answers(client, batch.error_file_id)
    assert errors.keys() == {f"s{i}" for i in range(40)}
    assert {row["error"]["code"] for row in errors.values()} == {"batch_cancelled"}
    assert batch.request_counts.failed == 40
    while live.engine.running:
        time.sleep(0.01)
    assert client.batches.cancel(batch.id) == batch  # again: no error
    done = wait(client, create(client, line("a", prompt="x", max_tokens=1)))
    with pytest.raises(openai.BadRequestError, match="completed and cannot be cancelled"):
        client.batches.cancel(done.id)
    client.files.delete(batch.input_file_id)


def test_interactive_requests_go_first(client: OpenAI, live: LiveServer) -> None:
    """Of 16 places, 14 are for lines; twelve streams come, and all but four lines leave until they are through."""
    live.engine.script = Script(text="x" * 100, delay_s=0.01)
    batch = create(client, "".join(line(f"l{i}", prompt="x", max_tokens=60) for i in range(40)))
    while live.engine.running < 14:
        time.sleep(0.005)

    def stream() -> None:
        list(client.completions.create(model="fake", prompt="x", max_tokens=99, stream=True))

    threads = [threading.Thread(target=stream) for _ in range(12)]
    for thread in threads:
        thread.start()

    def running(priority: int) -> int:
        return sum(not seen.ended and seen.priority == priority for seen in list(live.engine.seen))

    deadline = time.monotonic() + 5
    while running(0) < 12 or running(1000) > 4:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    batch = wait(client, batch)
    assert answers(client, batch.output_file_id).keys() == {f"l{i}" for i in range(40)}
    assert any(seen.closed_early for seen in live.engine.seen)


def test_wrong_requests(client: OpenAI, live: LiveServer) -> None:
    file = client.files.create(file=b"x", purpose="batch").id

    def refused(match: str, **change: Any) -> None:
        asked = {"input_file_id": file, "endpoint": COMPLETIONS, "completion_window": "24h", **change}
        with pytest.raises(openai.APIStatusError, match=match) as caught:
            client.batches.create(**asked)
        assert 400 <= caught.value.status_code < 500

    refused("no file", input_file_id="file-nothing")
    refused("pooling model", endpoint="/v1/embeddings")
    refused("not available in a batch", endpoint="/v1/images/generations")
    refused("completion_window", completion_window="fast")
    refused("completion_window", completion_window="31d")
    refused("metadata", metadata={"k" * 65: "v"})
    for purpose in ("fine-tune", "batch_output"):
        with pytest.raises(openai.BadRequestError, match="purpose"):
            client.files.create(file=b"x", purpose=purpose)  # type: ignore[arg-type]
    with pytest.raises(openai.APIStatusError, match=r"1048576 bytes .*--batch-max-file-size") as caught:
        client.files.create(file=b"x" * ((1 << 20) + 1), purpose="batch")
    assert caught.value.status_code == 413
    with pytest.raises(openai.NotFoundError, match="no batch"):
        client.batches.retrieve("batch_nothing")
    with pytest.raises(openai.BadRequestError, match="after"):
        client.batches.list(after="batch_nothing")
    with pytest.raises(openai.BadRequestError, match="limit"):
        client.batches.list(limit=10**9)


FORM = "multipart/form-data; boundary=B"
PART = b'--B\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n'


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b""),
        (FORM, b""),
        (FORM, b"--B\r\n"),
        (FORM, b"nonsense"),
        (FORM.replace("=B", "=" + "B" * 500), b"--B"),
        (FORM, PART % (b"purpose", b"batch") + b"--B--"),
        (FORM, PART % (b"file", b"x") + b"--B--"),
        (FORM, PART % (b"purpose", b"batch") + PART % (b"file", b"x")),
        (FORM, PART % (b"file", b"x") * 2 + b"--B--"),
        (FORM, PART % (b"purpose", b"x" * 5000) + b"--B--"),
        (FORM, b"--B\r\n" + b"a" * 100_000),
        (FORM, PART % (b"x", b"") * 40 + b"--B--"),
    ],
)
def test_uploads_that_are_none(live: LiveServer, tmp_path: Path, content_type: str, body: bytes) -> None:
    response = CLIENT.post(live.url + "/v1/files", content=body, headers={"content-type": content_type})
    assert response.status_code in (400, 413), response.text
    assert response.json()["error"]["message"]
    assert list((tmp_path / "kept" / "files").iterdir()) == []


def test_off_without_a_folder(server: LiveServer) -> None:
    client = OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    for call in (
        lambda: client.files.create(file=b"x", purpose="batch"),
        lambda: client.files.list(),
        lambda: client.files.content("file-x"),
        lambda: client.batches.list(),
        lambda: client.batches.cancel("batch_x"),
    ):
        with pytest.raises(openai.BadRequestError, match="--batch-dir"):
            call()


def test_storage_is_bounded(tmp_path: Path) -> None:
    settings = ServerSettings(batches=BatchConfig(batch_dir=str(tmp_path), batch_max_storage=100))
    with serving(FakeEngine(), settings) as live:
        client = OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0)
        file = client.files.create(file=b"x" * 100, purpose="batch")
        with pytest.raises(openai.APIStatusError, match="--batch-max-storage"):
            client.files.create(file=b"x", purpose="batch")
        client.files.delete(file.id)
        client.files.create(file=b"x", purpose="batch")


def test_a_key_sees_its_own_and_pays_for_it(tmp_path: Path) -> None:
    keys = ("the-key-of-ann-0001", "the-key-of-bob-0002")
    settings = ServerSettings(
        api_keys=keys, admin_keys=("the-key-of-the-boss",), batches=BatchConfig(batch_dir=str(tmp_path))
    )
    with serving(FakeEngine(), settings) as live:
        ann, bob, boss = (
            OpenAI(base_url=live.url + "/v1", api_key=key, max_retries=0) for key in (*keys, "the-key-of-the-boss")
        )
        batch = wait(ann, create(ann, line("a") + line("b")))
        assert batch.status == "completed" and len(ann.files.list().data) == 2
        assert bob.files.list().data == [] and bob.batches.list().data == []
        for call in (
            lambda: bob.files.content(batch.output_file_id),
            lambda: bob.files.delete(batch.input_file_id),
            lambda: bob.batches.retrieve(batch.id),
            lambda: bob.batches.cancel(batch.id),
            lambda: bob.batches.create(
                input_file_id=batch.input_file_id, endpoint=COMPLETIONS, completion_window="24h"
            ),
        ):
            with pytest.raises(openai.NotFoundError):
                call()
        assert boss.batches.retrieve(batch.id) == batch
        account = live.app.state.gate.account_named("key-1")
        assert account.today.completion_tokens == 6
        assert {seen.terms.tenant for seen in live.engine.seen} == {"key-1"}
