"""A request that ends the core, over HTTP: it is found and refused, and the answers of the others are the same."""

import threading
from pathlib import Path

import httpx
import openai
import pytest

from tests.faults.harness import hurt_server, run_all
from tests.http import sse
from tests.http.live import CLIENT

DEADLY = 909  # a token id that no prompt of the other streams has
BODY = {"prompt": [30, 40, DEADLY, 50], "max_tokens": 60, "ignore_eos": True}
KINDS = ["plain", "seeded", "n3", "logprobs", "tools"]


@pytest.mark.parametrize(
    ("deed", "after", "cause", "stream"),
    [
        ("abort", 12, "crashed", True),
        ("device", 0, "device_fault", False),
        pytest.param("segfault", 3, "crashed", False, marks=pytest.mark.slow),
        pytest.param("device", 5, "device_fault", True, marks=pytest.mark.slow),
    ],
)
def test_it_is_refused_and_the_others_lose_nothing(
    deed: str, after: int, cause: str, stream: bool, tmp_path: Path
) -> None:
    with hurt_server(tmp_path, "--max-core-restarts", "1", poison={DEADLY: (deed, after)}) as hurt:
        undisturbed = run_all(hurt, KINDS)
        replies: list[httpx.Response] = []

        def ask() -> None:
            replies.append(CLIENT.post(hurt.url + "/v1/completions", json={**BODY, "stream": stream}, timeout=90))

        thread = threading.Thread(target=ask)
        disturbed = run_all(hurt, KINDS, lambda progress: progress.wait_for(30) and thread.start())
        thread.join()
        for kind, answer in disturbed.items():
            answer.assert_same(undisturbed[kind])
        (reply,) = replies
        if stream and after:  # it had begun
            error = sse.events(reply)[-1]["error"]
        else:
            error = reply.json()["error"]
            assert reply.status_code == 500 and reply.headers["x-should-retry"] == "false"
        assert "ended the engine twice while it ran alone" in error["message"]
        hurt.until_ready()
        hurt.assert_all_free()
        assert hurt.restarts(cause) == hurt.restarts() >= 3
        assert "kvasir:requests_refused_as_poison_total" in CLIENT.get(hurt.url + "/metrics").text
        incidents = hurt.incidents()
        assert [len(i["refused"]) for i in incidents] == [0] * (len(incidents) - 1) + [1]
        assert len(incidents) <= 3 + 3, "at most: the first, some of the search, twice alone"


def test_official_clients_do_not_send_it_again(tmp_path: Path) -> None:
    with hurt_server(tmp_path, poison={DEADLY: ("abort", 0)}) as hurt:
        client = openai.OpenAI(base_url=hurt.url + "/v1", api_key="none")  # its default is to retry twice
        with pytest.raises(openai.InternalServerError, match="ended the engine twice"):
            client.completions.create(model="kvasir-demo", prompt=BODY["prompt"], max_tokens=5)
        assert len(hurt.incidents()) == 2


def test_it_is_found_by_the_one_of_several_cores_that_it_ends(tmp_path: Path) -> None:
    """Two API processes over two cores: the other core does not notice, and the refusal finds its way back."""
    flags = ("--api-server-count", "2", "--data-parallel-size", "2", "--max-core-restarts", "1")
    with hurt_server(tmp_path, *flags, poison={DEADLY: ("abort", 5)}) as hurt:
        undisturbed = run_all(hurt, KINDS)
        replies: list[httpx.Response] = []

        def ask() -> None:
            replies.append(httpx.post(hurt.url + "/v1/completions", json=BODY, timeout=90))

        thread = threading.Thread(target=ask)
        disturbed = run_all(hurt, KINDS, lambda progress: progress.wait_for(30) and thread.start())
        thread.join()
        for kind, answer in disturbed.items():
            answer.assert_same(undisturbed[kind])
        (reply,) = replies
        assert reply.status_code == 500 and reply.headers["x-should-retry"] == "false"
        assert "ended the engine twice while it ran alone" in reply.json()["error"]["message"]
        incidents = hurt.incidents()
        assert {i["cause"] for i in incidents} == {"crashed"} and sum(len(i["refused"]) for i in incidents) == 1
        assert len({i["core"] for i in incidents}) == 1, "a suspect is not handed to the other core"
        hurt.until_ready()
        hurt.assert_all_free()


@pytest.mark.slow
def test_a_kernel_that_never_ends(tmp_path: Path) -> None:
    with hurt_server(tmp_path, "--engine-iteration-timeout", "1.5", poison={DEADLY: ("hang", 4)}) as hurt:
        undisturbed = run_all(hurt, ["plain", "n3"])
        replies: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: replies.append(CLIENT.post(hurt.url + "/v1/completions", json=BODY, timeout=90))
        )
        disturbed = run_all(hurt, ["plain", "n3"], lambda progress: progress.wait_for(20) and thread.start())
        thread.join()
        for kind, answer in disturbed.items():
            answer.assert_same(undisturbed[kind])
        assert replies[0].status_code == 500
        assert {i["cause"] for i in hurt.incidents()} == {"stuck"}
        hurt.assert_all_free()
