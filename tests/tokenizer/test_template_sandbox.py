"""Templates that try to take all the time or all the memory, and harmless ones that look alike."""

import resource
import threading
import time

import pytest

from kvasir.errors import UserError
from kvasir.tokenizer import render_chat, template_sandbox
from kvasir.tokenizer.template_sandbox import MAX_CHARS

USER = {"role": "user", "content": "hi"}
LOOP = "{% for i in range(99999) %}"
DOUBLING = "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set ns.x = "

SLOW = {
    "nested loops": LOOP * 3 + "{% endfor %}" * 3,
    "a macro that calls itself": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "a recursive loop": "{% for i in [1, 1] recursive %}{{ loop([1, 1]) if loop.depth < 60 }}{% endfor %}",
    "a call block": "{% macro m() %}" + LOOP + "{{ caller() }}{% endfor %}{% endmacro %}"
    "{% call m() %}" + LOOP + "{% endfor %}{% endcall %}",
    "long filters in a loop": LOOP + "{% set a = range(99999) | list | sort | reverse | list %}{% endfor %}",
}
LARGE = {
    "repeat": "{{ 'x' * 1000000000 }}",
    "repeat a list": "{{ ([0] * 1000000000) | length }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "products": DOUBLING.replace("'xxxxxxxx'", "10 ** 1000") + "ns.x * ns.x %}{% endfor %}",
    "plus": DOUBLING + "ns.x + ns.x %}{% endfor %}",
    "tilde": DOUBLING + "ns.x ~ ns.x %}{% endfor %}",
    "replace": DOUBLING + "ns.x.replace('x', 'xxxxxxxx') %}{% endfor %}",
    "replace filter": DOUBLING + "ns.x | replace('x', 'xxxxxxxx') %}{% endfor %}",
    "join": DOUBLING + "ns.x.join([ns.x, ns.x, ns.x]) %}{% endfor %}",
    "join filter": DOUBLING + "[ns.x, ns.x, ns.x] | join(ns.x) %}{% endfor %}",
    "center": "{{ 'x'.center(1000000000) }}",
    "center filter": "{{ 'x' | center(1000000000) }}",
    "ljust": "{{ 'x'.ljust(1000000000) }}",
    "zfill": "{{ 'x'.zfill(1000000000) }}",
    "expandtabs": "{{ '\\t'.expandtabs(1000000000) }}",
    "indent": "{{ 'x\\nx' | indent(1000000000) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (1000000000, 1) }}",
    "percent filter": "{{ '%1000000000d' | format(1) }}",
    "format": "{{ '{:>1000000000}'.format(1) }}",
    "format nested": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "format_map": "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "tojson": "{{ [[1]] | tojson(indent=1000000000) }}",
    "slice": "{{ [1] | slice(1000000000) | list | length }}",
    "batch": "{{ [1] | batch(1000000000, 0) | list }}",
    "lipsum": "{{ lipsum(n=100000) }}",
}
HARMLESS = {
    "{{ 'a' ~ 1 ~ none ~ [2] }}": "a1None[2]",
    "{{ 'a' ~ undefined_name ~ 'b' }}": "ab",
    "{% set x = 'q' ~ ('w' ~ 'e') %}{{ x }}": "qwe",
    "{{ '%05d|%s' % (7, 'x') }}": "00007|x",
    "{{ '{:>5}|{}'.format(7, 123456) }}": "    7|123456",
    "{{ '%s' | format(5) }}": "5",
    "{{ ['a', 'b'] | join(', ') }}": "a, b",
    "{{ ', '.join(['a', 'b']) }}": "a, b",
    "{{ 'aXb'.replace('X', '--') | replace('a', 'z') }}": "z--b",
    "{{ {'a': [1]} | tojson(indent=2) }}": '{\n  "a": [\n    1\n  ]\n}',
    "{{ 'x\ny' | indent(4) }}": "x\n    y",
    "{{ 'x' | center(5) }}|{{ 'x'.ljust(3) }}|": "  x  |x  |",
    "{{ [1, 2, 3] | batch(2) | list }}": "[[1, 2], [3]]",
    "{% macro tick() %}mine{% endmacro %}{{ tick() }}{% for i in [1, 2] %}{{ i }}{% endfor %}": "mine12",
    "{{ 3 * 'ab' }}{{ 2 ** 10 }}{{ 1 + 2 }}{{ [1] + [2] }}": "ababab10243[1, 2]",
}


@pytest.mark.parametrize("name", SLOW)
def test_time_is_bounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_SECONDS", 0.3)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"may run for 0\.3 s"):
        render_chat(SLOW[name], [USER])
    assert time.monotonic() - started < 15.0


@pytest.mark.parametrize("name", LARGE)
def test_memory_is_bounded(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="may not|undefined|unsafe|SecurityError|more than"):
        render_chat(LARGE[name], [USER])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 16 * MAX_CHARS


@pytest.mark.parametrize("source", HARMLESS)
def test_harmless_templates_are_as_they_were(source: str) -> None:
    assert render_chat(source, [USER]) == HARMLESS[source]


def test_each_rendering_has_its_own_time() -> None:
    quick = "{% for i in range(1000) %}{{ i }}{% endfor %}"

    def slow() -> None:
        with pytest.raises(UserError):
            render_chat(SLOW["nested loops"], [USER])

    threads = [threading.Thread(target=slow) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        assert render_chat(quick, [USER]).endswith("999")
    for thread in threads:
        thread.join()
