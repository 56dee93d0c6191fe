"""The chat page in a browser, over an engine whose words are known."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.errors import RequestFailedError
from tests.http.browser import ask, chromium, done, eventually, last_answer, opened, point_at
from tests.http.fake_engine import FakeEngine, Script
from tests.http.live import LiveServer, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def module_server() -> Iterator[LiveServer]:
    settings = ServerSettings(tool_call_parser="hermes", reasoning_parser="qwen3")
    with serving(FakeEngine(max_model_len=60_000, served_model_name=("fake",)), settings) as live:
        yield live


@pytest.fixture
def live(module_server: LiveServer) -> LiveServer:
    module_server.engine.script = Script()
    module_server.engine.seen.clear()
    return module_server


@pytest.fixture
def page(browser: "Browser", live: LiveServer) -> Iterator["Page"]:
    with opened(browser, live.url + "/") as page:
        yield page


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def test_an_answer_streams_in(page: "Page", live: LiveServer) -> None:
    gate = live.on_loop(asyncio.Event)
    live.engine.script = Script(text="It comes in two parts.", per_step=5, gate=gate)
    ask(page, "Hello", wait=False)
    eventually(page, "document.querySelector('.answer-body').textContent === 'It co'")
    assert page.locator("#stop").is_visible() and not page.locator("#send").is_visible()
    live.on_loop(gate.set)
    done(page)
    assert last_answer(page) == "It comes in two parts."
    assert page.locator(".bubble").inner_text() == "Hello"
    assert "22 tokens" in page.locator(".figures").inner_text() or "23 tokens" in page.locator(".figures").inner_text()


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop(page: "Page", live: LiveServer, how: str) -> None:
    live.engine.script = Script(text="x" * 5000, delay_s=0.02)
    ask(page, "Go on for ever", wait=False)
    eventually(page, "document.querySelector('.answer-body').textContent.length > 3")
    if how == "button":
        page.click("#stop")
    else:
        page.keyboard.press("Escape")
    done(page)
    until(lambda: live.engine.running == 0)
    assert live.engine.seen[0].closed_early, "the engine was told, too"
    assert "stopped" in page.locator(".figures").inner_text()
    assert set(last_answer(page)) == {"x"}
    live.engine.script = Script(text="Fine.")
    ask(page, "And now?")
    assert last_answer(page) == "Fine."


def test_probabilities_on_hover(page: "Page", live: LiveServer) -> None:
    live.engine.script = Script(text="A **bold** word")
    ask(page, "Hello")
    point_at(page, "o")
    page.wait_for_selector("#tip:not([hidden])")
    tip = page.locator("#tip").inner_text()
    assert tip.startswith("o\n36.8 %"), "exp(-1), as the engine says"
    assert page.locator(".tip-row").count() == 5 and page.locator(".tip-row.chosen").count() == 1
    assert page.evaluate("[...CSS.highlights.get('token')].map(String).join()") == "o"
    page.mouse.move(5, 5)
    page.wait_for_selector("#tip", state="hidden")


def test_tokens_one_by_one_with_the_keyboard(page: "Page", live: LiveServer) -> None:
    live.engine.script = Script(text="Né 🙂")
    ask(page, "Hello")
    page.click("[aria-label='Show tokens']")
    boxes = page.locator(".token").all_inner_texts()
    assert "".join(boxes).replace("∅", "").startswith("Né 🙂") and "</s>" in boxes[-1]
    page.locator(".token-view").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#tip:not([hidden])")
    assert page.locator(".token.active").count() == 1
    page.click("[aria-label='Show tokens']")
    assert last_answer(page) == "Né 🙂"


def test_without_probabilities_none_are_asked_for(page: "Page", live: LiveServer) -> None:
    page.uncheck("#set-logprobs")
    ask(page, "Hello")
    assert live.engine.seen[0].params.logprobs is None
    assert not page.locator("[aria-label='Show tokens']").is_visible()


HOSTILE = """<img src=x onerror="window.caught=1"><script>window.caught=1</script>
**<svg onload=alert(1)>** [a](javascript:window.caught=1) [b](  JavaScript:alert(1)) [c](data:text/html,x)
[d](//e.example)
![picture](https://e.example/p.png) [fine](https://e.example/?a=1&b=2)

```html
</code><script>window.caught=1</script>
```

| <b>x</b> | y |
|---|---|
| <iframe src=https://e.example></iframe> | 2 |
"""


def test_markup_in_an_answer_is_text(page: "Page", live: LiveServer) -> None:
    live.engine.script = Script(text=HOSTILE)
    ask(page, "<b>Hello</b> [me](javascript:alert(1))")
    assert page.evaluate("window.caught") is None
    assert page.locator(".message :is(img, script, svg:not(.icon), iframe, b)").count() == 0
    links = page.locator(".message a").evaluate_all("links => links.map((a) => [a.href, a.target, a.rel])")
    assert links == [
        ["https://e.example/p.png", "_blank", "noopener noreferrer"],
        ["https://e.example/?a=1&b=2", "_blank", "noopener noreferrer"],
        ["https://e.example/", "_blank", "noopener noreferrer"],
    ]
    assert page.locator(".bubble").inner_text() == "<b>Hello</b> [me](javascript:alert(1))"
    assert page.locator("figure code").inner_text().strip() == "</code><script>window.caught=1</script>"


def test_the_browser_itself_forbids_markup(browser: "Browser", live: LiveServer) -> None:
    with opened(browser, live.url + "/", errors=3) as page:
        assert page.evaluate("(() => { try { document.body.innerHTML = '<b>' } catch (e) { return e.name } })()") == (
            "TypeError"
        )
        outside = "fetch('http://127.0.0.1:9/').then(() => 'reached', () => 'refused')"
        assert page.evaluate(outside) == "refused"


MARKDOWN = """# Title *here*

Some **bold**, *it*, ~~gone~~, `co*de*` and **bold *both***; 2 * 3 * 4, snake_case_name, \\*no\\*.
Next line

1. one
   - a
     continued
   - b

     para
2. two
> quoted
> - list

    not code
```py
x = "**"

y
```
| a | b |
|--:|:-:|
| `1` | **2** |
***
https://e.example/a_b_c. End
"""


def test_markdown_grows_into_what_it_is(page: "Page") -> None:
    """Shown in pieces it ends up as if shown at once, and each text node knows its place in the source."""
    cuts = sorted(random.Random(1).sample(range(len(MARKDOWN)), 60))
    whole, grown, misplaced = page.evaluate(
        """async ([source, cuts]) => {
          const { Markdown } = await import('/web/markdown.js');
          const { sourceOf } = await import('/web/inline.js');
          const [a, b] = [document.createElement('div'), document.createElement('div')];
          new Markdown(a).update(source);
          const growing = new Markdown(b);
          for (const cut of cuts) growing.update(source.slice(0, cut));
          growing.update(source);
          const misplaced = [];
          const walker = document.createTreeWalker(a, NodeFilter.SHOW_TEXT);
          for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            const at = sourceOf(node);
            if (at === undefined) continue;
            if (source.slice(at, at + node.length) !== node.data) misplaced.push([at, node.data]);
          }
          return [a.innerHTML, b.innerHTML, misplaced];
        }""",
        [MARKDOWN, cuts],
    )
    assert whole == grown
    assert misplaced == []
    for piece in (
        '<h3 class="h1">Title <em>here</em></h3>',
        "<strong>bold</strong>, <em>it</em>, <del>gone</del>, <code>co*de*</code>",
        "and <strong>bold <em>both</em></strong>",
        "2 * 3 * 4, snake_case_name, *no*.<br>Next line",
        "<ol><li>one<ul><li>a<br>continued</li><li>b<p>para</p></li></ul></li><li>two</li></ol>",
        "<blockquote><p>quoted</p><ul><li>list</li></ul></blockquote>",
        '<code>x = "**"\n\ny</code>',
        '<td class="right"><code>1</code></td><td class="center"><strong>2</strong></td>',
        "<hr>",
        ">https://e.example/a_b_c</a>. End",
    ):
        assert piece in whole, piece


@pytest.mark.parametrize(
    "piece", ["*a ", "**", "[", "[a](", "`", "_a_", "> ", "- ", "  - a\n", "|", "~~~", "\\", "a*b_c~d`e["]
)
def test_endless_repetition_stays_quick(page: "Page", piece: str) -> None:
    """What a model that has lost its way writes: 40,000 letters of it are drawn in a moment."""
    took = page.evaluate(
        """async (source) => {
          const { Markdown } = await import('/web/markdown.js');
          const begun = performance.now();
          new Markdown(document.createElement('div')).update(source);
          return performance.now() - begun;
        }""",
        piece * (40_000 // len(piece)),
    )
    assert took < 1500


def test_reasoning_is_folded(page: "Page", live: LiveServer) -> None:
    live.engine.script = Script(text="<think>Let me see.</think>Forty-two.")
    ask(page, "What is it?")
    assert last_answer(page) == "Forty-two."
    assert page.locator(".reasoning summary").inner_text().startswith("Thought for")
    assert not page.locator(".reasoning-text").is_visible()
    page.click(".reasoning summary")
    assert page.locator(".reasoning-text").inner_text() == "Let me see."
    point_at(page, "F")
    page.wait_for_selector("#tip:not([hidden])")
    assert page.locator("#tip").inner_text().startswith("F\n"), "tokens of the thought come first and are not meant"


def test_settings_are_sent_and_kept(page: "Page", live: LiveServer) -> None:
    values = {"temperature": "0.5", "top_p": "0.9", "top_k": "7", "min_p": "0.05", "max_tokens": "11", "seed": "3"}
    for name, value in values.items():
        page.fill(f"#set-{name}", value)
    page.fill("#set-system", "Be brief.")
    ask(page, "Hello")
    params = live.engine.seen[0].params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 7, 0.05)
    assert (params.max_tokens, params.seed) == (11, 3)
    assert bytes(live.engine.seen[0].prompt_token_ids).startswith(b"<system>Be brief.\n<user>Hello")
    assert "cut at its longest" in page.locator(".figures").inner_text()
    page.reload()
    page.wait_for_selector(".answer")
    assert page.input_value("#set-seed") == "3" and page.input_value("#set-system") == "Be brief."
    page.fill("#set-temperature", "9")
    assert page.locator("#temperature-error").inner_text() == "A number from 0 to 2."
    page.click("text=Reset to defaults")
    ask(page, "Hello again")
    assert live.engine.seen[-1].params.seed is None


def test_regenerate_edit_and_copy(page: "Page", live: LiveServer) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    live.engine.script = Script(text="First.")
    ask(page, "Tell me")
    live.engine.script = Script(text="Second.")
    page.click("[aria-label='Answer again']")
    eventually(page, "document.querySelector('.answer-body').textContent === 'Second.'")
    done(page)
    assert page.locator(".answer").count() == 1
    page.locator(".answer [aria-label='Copy']").click()
    until(lambda: page.evaluate("navigator.clipboard.readText()") == "Second.")
    ask(page, "More")
    page.locator(".user").first.hover()
    page.locator("[aria-label='Edit']").first.click()
    page.fill(".editor textarea", "Tell me else")
    live.engine.script = Script(text="Third.")
    page.keyboard.press("Enter")
    eventually(page, "document.querySelector('.answer-body').textContent === 'Third.'")
    done(page)
    assert page.locator(".bubble").all_inner_texts() == ["Tell me else"]
    assert bytes(live.engine.seen[-1].prompt_token_ids) == b"<user>Tell me else\n<assistant>"


def test_chats_are_kept_in_the_browser(page: "Page", live: LiveServer) -> None:
    live.engine.script = Script(text="Kept.")
    ask(page, "The first chat")
    page.click(".new-chat")
    assert page.locator(".welcome").is_visible()
    ask(page, "The second chat")
    page.reload()
    page.wait_for_selector(".answer")
    assert page.locator(".chat-open").all_inner_texts() == ["The second chat", "The first chat"]
    page.click("text=The first chat")
    assert page.locator(".bubble").inner_text() == "The first chat" and last_answer(page) == "Kept."
    point_at(page, "K")
    page.wait_for_selector("#tip:not([hidden])")
    page.locator(".chats li").nth(1).hover()
    page.click("[aria-label='Delete The first chat']")
    eventually(page, "document.querySelectorAll('.chat-open').length === 1")
    page.reload()
    page.wait_for_selector(".answer")
    assert page.locator(".chat-open").all_inner_texts() == ["The second chat"]


def test_errors_are_said_in_the_servers_words(browser: "Browser", live: LiveServer) -> None:
    with opened(browser, live.url + "/", errors=1) as page:
        page.fill("#set-top_p", "0.5")
        page.evaluate("localStorage['kvasir.settings'] = JSON.stringify({top_p: '7'})")
        page.reload()
        ask(page, "Hello")
        assert "top_p must be" in page.locator(".error").inner_text()
        page.click("text=Reset to defaults")
        live.engine.script = Script(fail_after=4, fail_with=RequestFailedError("the worker tripped."))
        page.click("[aria-label='Answer again']")
        eventually(page, "document.querySelector('.error').textContent.includes('the worker tripped.')")
        assert last_answer(page) == "Hell", "what came before it stays"


def test_the_key(browser: "Browser") -> None:
    engine = FakeEngine(Script(text="Welcome."))
    with (
        serving(engine, ServerSettings(api_keys=("sesame",))) as live,
        opened(browser, live.url + "/", errors=2) as page,
    ):
        page.wait_for_selector("dialog[open]")
        page.fill("#key-input", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=The server does not know this key.")
        page.fill("#key-input", "sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog[open]", state="detached")
        eventually(page, "document.querySelector('#model').textContent === 'fake'")
        ask(page, "Hello")
        assert last_answer(page) == "Welcome."
        assert page.evaluate("sessionStorage['kvasir.key']") == "sesame"
        assert "sesame" not in page.evaluate("JSON.stringify(localStorage)")
        page.reload()
        ask(page, "And again")
        assert last_answer(page) == "Welcome."


def test_on_a_phone(browser: "Browser", live: LiveServer) -> None:
    live.engine.script = Script(text="| a | b |\n|-|-|\n| " + "wide " * 40 + " | 2 |\n\n```\n" + "x" * 300 + "\n```")
    with opened(browser, live.url + "/") as page:
        page.set_viewport_size({"width": 360, "height": 700})
        ask(page, "Hello")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate("document.querySelector('#thread').scrollWidth") == 360
        assert not page.locator("#settings").is_visible()
        page.focus("#toggle-settings")
        page.keyboard.press("Enter")
        assert page.locator("#set-seed").is_visible()
        assert page.evaluate("document.activeElement.closest('#settings') !== null")
        page.keyboard.press("Escape")
        assert not page.locator("#settings").is_visible()
        assert page.evaluate("document.activeElement.id") == "toggle-settings"


def test_themes(browser: "Browser", live: LiveServer) -> None:
    with opened(browser, live.url + "/", color_scheme="dark") as page:
        background = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(background)
        assert page.get_attribute("#theme", "aria-label") == "Theme: as the system has it"
        page.click("#theme")
        assert page.get_attribute("#theme", "aria-label") == "Theme: light"
        light = page.evaluate(background)
        assert light != dark
        page.reload()
        assert page.evaluate(background) == light


def test_tool_calls_are_shown_and_answered(page: "Page", live: LiveServer) -> None:
    call = {"name": "get_weather", "arguments": {"city": "Oslo"}}
    live.engine.script = Script(text=f"One moment.<tool_call>\n{json.dumps(call)}\n</tool_call>")
    page.click("text=Insert an example")
    ask(page, "Weather in Oslo?")
    assert last_answer(page) == "One moment."
    assert page.locator(".call header").text_content() == "Calls get_weather"
    assert json.loads(page.locator(".call pre").inner_text()) == {"city": "Oslo"}
    live.engine.script = Script(text="It rains.")
    page.fill(".results textarea", '{"sky": "rainy"}')
    page.click("text=Send result")
    eventually(page, "[...document.querySelectorAll('.answer-body')].at(-1).textContent === 'It rains.'")
    done(page)
    prompt = bytes(live.engine.seen[-1].prompt_token_ids)
    assert b"[tools:get_weather]" in prompt and b'<tool>{"sky": "rainy"}' in prompt
    assert page.locator(".results").count() == 0
