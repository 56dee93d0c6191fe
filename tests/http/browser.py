"""Headless Chromium for tests of the web page. Every page is watched: no errors, and nothing asked of another host."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Skips the test, with the reason, where there is no browser or nothing to drive it."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    path = next((p for name in _NAMES if (p := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is on the path (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield browser
        browser.close()


def eventually(page: "Page", expression: str, arg: Any = None, seconds: float = 15.0) -> None:
    """Waits until the expression is true. `wait_for_function` would evaluate text, and the page's policy forbids it."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression, arg):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(30)


@contextmanager
def opened(browser: "Browser", url: str, *, errors: int = 0, **context: Any) -> Iterator["Page"]:
    """The page at `url` in a fresh profile; `errors` is how many refused calls its console may name."""
    said: list[str] = []
    asked: list[str] = []
    profile = browser.new_context(viewport={"width": 1280, "height": 800}, **context)
    page = profile.new_page()
    page.set_default_timeout(15_000)
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    eventually(page, "document.querySelector('#model').textContent !== ''")
    yield page
    profile.close()
    assert len(said) <= errors, said
    assert all(address.startswith((url.split("#")[0], "blob:", "data:")) for address in asked), asked


def ask(page: "Page", text: str, *, wait: bool = True) -> None:
    """Sends a message; with `wait`, returns when the answer is complete."""
    before = page.locator(".answer").count()
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    page.locator(".answer").nth(before).wait_for()
    if wait:
        done(page)


def done(page: "Page") -> None:
    eventually(page, "!document.querySelector('.answer.running') && !document.querySelector('#send').hidden")


def last_answer(page: "Page") -> str:
    return page.locator(".answer-body").last.inner_text()


def point_at(page: "Page", text: str) -> None:
    """Moves the mouse over the middle of `text` in the last answer."""
    x, y = page.evaluate(
        """(text) => {
          const body = [...document.querySelectorAll('.answer-body')].at(-1);
          const walker = document.createTreeWalker(body, NodeFilter.SHOW_TEXT);
          for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            const at = node.data.indexOf(text);
            if (at < 0) continue;
            const range = new Range();
            range.setStart(node, at);
            range.setEnd(node, at + text.length);
            const box = range.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
          }
        }""",
        text,
    )
    page.mouse.move(x, y)
