"""The page in a browser over the bundled model: right answers, tools, and a live view that follows the load."""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.http.browser import ask, chromium, done, eventually, last_answer, opened, point_at
from tests.http.live import CLIENT
from tests.http.test_live import process

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def url(browser: "Browser") -> Iterator[str]:
    with process("--kv-cache-memory", "12MiB", "--max-num-seqs", "4", model="kvasir-demo") as (url, _):
        yield url


def test_the_bundled_model_answers(browser: "Browser", url: str) -> None:
    with opened(browser, url + "/") as page:
        assert page.locator("#model").inner_text() == "kvasir-demo"
        page.click("text=What is the capital of Norway?")
        page.locator(".answer").wait_for()
        done(page)
        assert last_answer(page) == "Oslo"
        point_at(page, "s")
        page.wait_for_selector("#tip:not([hidden])")
        assert page.locator("#tip strong").inner_text().endswith("%")
        ask(page, "Reverse the word lantern.")
        assert last_answer(page) == "nretnal"


def test_the_bundled_model_calls_a_tool(browser: "Browser", url: str) -> None:
    with opened(browser, url + "/") as page:
        page.click("text=Insert an example")
        ask(page, "What is the weather in Oslo?")
        assert page.locator(".call header").text_content() == "Calls get_weather"
        assert '"city": "Oslo"' in page.locator(".call pre").inner_text()
        page.fill(".results textarea", '{"temperature": 3, "sky": "rainy"}')
        page.click("text=Send result")
        page.locator(".answer").nth(1).wait_for()
        done(page)
        assert last_answer(page) == "It is 3 degrees and rainy in Oslo."


def tile(page: "Page", name: str) -> str:
    return page.locator(f"[data-tile='{name}'] .tile-value").inner_text()


def test_the_live_page_follows_the_load(browser: "Browser", url: str) -> None:
    with opened(browser, url + "/#engine") as page:
        page.wait_for_selector(".status.good")
        eventually(page, "document.querySelector('.status').textContent === 'Idle'")
        assert page.locator(".batch-box .empty").is_visible()
        empty = page.evaluate("document.querySelector('.map canvas').toDataURL()")
        stop = threading.Event()

        def load(i: int) -> None:
            body = {"prompt": f"Count from {i} to 60." * 8, "max_tokens": 300, "ignore_eos": True}
            while not stop.is_set():
                CLIENT.post(url + "/v1/completions", json=body, timeout=60)

        threads = [threading.Thread(target=load, args=(i,)) for i in range(6)]
        try:
            for thread in threads:
                thread.start()
            value = (
                "parseFloat(document.querySelector(\"[data-tile='%s'] .tile-value\").textContent.replaceAll(',', ''))"
            )
            eventually(page, f"{value % 'Generation'} > 20")
            eventually(page, f"{value % 'Running'} >= 3")
            eventually(page, f"{value % 'Step time'} > 0")
            eventually(page, "document.querySelectorAll('.batch tbody tr').length >= 4")
            eventually(page, "document.querySelectorAll('.lane .span.decode').length >= 4")
            eventually(page, "/[1-9]/.test(document.querySelector('.card-figures strong').textContent)")
            assert page.locator(".status").inner_text() == "Working"
            assert page.evaluate("document.querySelector('.map canvas').toDataURL()") != empty
            before = page.locator(".batch").inner_text()
            eventually(page, "(old) => document.querySelector('.batch')?.innerText !== old", before)
            assert "waiting" in page.locator("[data-tile='Running'] .tile-sub").inner_text()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        eventually(page, "document.querySelector('.status').textContent === 'Idle'")
        eventually(page, "document.querySelector(\"[data-tile='Generation'] .tile-value\").textContent === '0'")
        assert page.locator(".lane .badge.length").count() > 4


def test_the_live_page_can_be_paused_and_rests_when_nobody_looks(browser: "Browser", url: str) -> None:
    asked: list[str] = []
    with opened(browser, url + "/#engine") as page:
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_selector(".status.good")
        page.click("text=Pause")
        page.wait_for_timeout(300)
        asked.clear()
        page.wait_for_timeout(1500)
        assert asked == []
        page.click("text=Go on")
        page.wait_for_selector(".status.good")
        page.click("text=Chat")
        page.wait_for_timeout(300)
        asked.clear()
        page.wait_for_timeout(1500)
        assert asked == []
