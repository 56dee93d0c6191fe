"""Texts as models of each family write them: (text, content, calls), broken ones, and thoughts."""

OSLO = ("get_weather", {"city": "Oslo"})
LIMA = ("get_weather", {"city": "Líma 🙂", "days": 3, "wind": True, "at": [1, {"x": "]}"}]})
NOW = ("now", {})
_OSLO, _LIMA = '{"city": "Oslo"}', '{"city": "Líma 🙂", "days": 3, "wind": true, "at": [1, {"x": "]}"}]}'


def _json(name: str, arguments: str, key: str = "arguments") -> str:
    return f'{{"name": "{name}", "{key}": {arguments}}}'


_O, _L, _N = _json("get_weather", _OSLO), _json("get_weather", _LIMA), _json("now", "{}")
_PO, _PL = _json("get_weather", _OSLO, "parameters"), _json("get_weather", _LIMA, "parameters")
_PY_L = 'get_weather(city="Líma 🙂", days=3, wind=True, at=[1, {"x": "]}"}])'

_QX_O = "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>"
_QX_L = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nLíma 🙂\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
    '<parameter=wind>\nTrue\n</parameter>\n<parameter=at>\n[1, {"x": "]}"}]\n</parameter>\n</function>\n</tool_call>'
)
_QX_N = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
_GX_O = "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>"
_GX_L = (
    "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Líma 🙂</arg_value>\n<arg_key>days</arg_key>\n"
    "<arg_value>3</arg_value>\n<arg_key>wind</arg_key>\n<arg_value>true</arg_value>\n<arg_key>at</arg_key>\n"
    '<arg_value>[1, {"x": "]}"}]</arg_value>\n</tool_call>'
)


def _deepseek(*calls: str) -> str:
    inner = "\n".join(f"<｜tool▁call▁begin｜>{c}<｜tool▁call▁end｜>" for c in calls)
    return f"<｜tool▁calls▁begin｜>{inner}<｜tool▁calls▁end｜>"


def _v3(name: str, arguments: str) -> str:
    return f"function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```"


def _v31(name: str, arguments: str) -> str:
    return f"{name}<｜tool▁sep｜>{arguments}"


def _kimi(*calls: tuple[str, str]) -> str:
    inner = "".join(
        f"<|tool_call_begin|>functions.{n}:{i}<|tool_call_argument_begin|>{a}<|tool_call_end|>"
        for i, (n, a) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{inner}<|tool_calls_section_end|>"


def _harmony(name: str, arguments: str, head: str = "<|channel|>commentary to=functions.{} <|constrain|>json") -> str:
    return f"{head.format(name)}<|message|>{arguments}<|call|>"


_XML_QWEN = [
    (_QX_O, "", [OSLO]),
    ("I look.\n" + _QX_L + "\n" + _QX_N, "I look.", [LIMA, NOW]),
    (_QX_O.removeprefix("<tool_call>\n"), "", [OSLO]),
    (_QX_O.replace("Oslo", 'a\n"b"\n\n<c>'), "", [("get_weather", {"city": 'a\n"b"\n\n<c>'})]),
    (_QX_L.replace("\n3\n", "\nthree\n"), "", [("get_weather", {**LIMA[1], "days": "three"})]),
    (_QX_O + "\nDone.", "Done.", [OSLO]),
]
_PYTHONIC = [
    ('[get_weather(city="Oslo")]', "", [OSLO]),
    (f" [{_PY_L}, now()]", "", [LIMA, NOW]),
    ("[get_weather(city='''a\n'b''', days=-3)]", "", [("get_weather", {"city": "a\n'b", "days": -3})]),
    ("[now(), get_weather(city=true)] Done.", "Done.", [NOW, ("get_weather", {"city": True})]),
]

CALLS = {
    "hermes": [
        (f"<tool_call>\n{_O}\n</tool_call>", "", [OSLO]),
        (
            f"Let me see.\n<tool_call>\n{_L}\n</tool_call>\n<tool_call>\n{_N}\n</tool_call>\n",
            "Let me see.",
            [LIMA, NOW],
        ),
        (f"<tool_call>{_O}</tool_call>\nAnd\n<tool_call>{_N}", "And", [OSLO, NOW]),
        (f"A <tool_call> tag, then <tool_call>{_O}</tool_call>", "A <tool_call> tag, then", [OSLO]),
        ('<tool_call>{"arguments": {"city": "Oslo"}, "name": "get_weather"}</tool_call>', "", [OSLO]),
        ('<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}</tool_call>', "", [OSLO]),
        ('<tool_call>{"name": "now"}</tool_call>', "", [NOW]),
        ('<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}</tool_call>', "", [OSLO]),
        ('<tool_call>{"name": "now", "arguments": {"a": "x\ny"}}</tool_call>', "", [("now", {"a": "x\ny"})]),
        (
            '<tool_call>{"name": "now", "arguments": {"a": "<tool_call>"}}</tool_call>',
            "",
            [("now", {"a": "<tool_call>"})],
        ),
    ],
    "granite": [
        (f"<|tool_call|>[{_O}]", "", [OSLO]),
        (f"<tool_call>[{_L}, {_N}]", "", [LIMA, NOW]),
    ],
    "phi4_mini_json": [(f"functools[{_O}]", "", [OSLO]), (f"Well.\nfunctools[{_L}, {_N}]", "Well.", [LIMA, NOW])],
    "llama3_json": [
        (_PO, "", [OSLO]),
        (f"<|python_tag|>{_PL}; {_N}", "", [LIMA, NOW]),
        (f"{_PO}\nDone.", "Done.", [OSLO]),
    ],
    "mistral": [
        (f"[TOOL_CALLS] [{_O}]", "", [OSLO]),
        (f"Hm.[TOOL_CALLS][{_L}, {_N}]", "Hm.", [LIMA, NOW]),
        (f"[TOOL_CALLS]get_weather[ARGS]{_OSLO}[TOOL_CALLS]now[ARGS]{{}}", "", [OSLO, NOW]),
        (f"[TOOL_CALLS]get_weather{_LIMA}", "", [LIMA]),
    ],
    "pythonic": _PYTHONIC,
    "llama4_pythonic": [*_PYTHONIC, ("<|python_start|>[now()]<|python_end|>", "", [NOW])],
    "qwen3_coder": _XML_QWEN,
    "qwen3_xml": _XML_QWEN,
    "glm45": [
        (_GX_O, "", [OSLO]),
        ("Look.\n" + _GX_L + "\n<tool_call>now\n</tool_call>", "Look.", [LIMA, NOW]),
        (_GX_O.replace("\n", ""), "", [OSLO]),
        (_GX_O.replace("Oslo", ' "a"\n'), "", [("get_weather", {"city": ' "a"\n'})]),
    ],
    "deepseek_v3": [
        (_deepseek(_v3("get_weather", _OSLO)), "", [OSLO]),
        ("Ok.\n" + _deepseek(_v3("get_weather", _LIMA), _v3("now", "{}")), "Ok.", [LIMA, NOW]),
    ],
    "deepseek_v31": [
        (_deepseek(_v31("get_weather", _OSLO)), "", [OSLO]),
        ("Ok." + _deepseek(_v31("get_weather", _LIMA), _v31("now", "{}")), "Ok.", [LIMA, NOW]),
    ],
    "kimi_k2": [
        (_kimi(("get_weather", _OSLO)), "", [OSLO]),
        ("Ok. " + _kimi(("get_weather", _LIMA), ("now", "{}")), "Ok.", [LIMA, NOW]),
    ],
    "openai": [
        (_harmony("get_weather", _OSLO), "", [OSLO]),
        (_harmony("get_weather", _OSLO).removesuffix("<|call|>"), "", [OSLO]),
        (_harmony("get_weather", _LIMA) + "<|start|>assistant" + _harmony("now", "{}"), "", [LIMA, NOW]),
        (_harmony("get_weather", _OSLO, " to=functions.{}<|channel|>commentary json"), "", [OSLO]),
        (_harmony("get_weather", _OSLO, "<|channel|>commentary to=functions.{}<|channel|>commentary"), "", [OSLO]),
        (_harmony("now", "{}", "<|channel|>analysis to={} code"), "", [NOW]),
        (_harmony("now", "{}") + "<|start|>assistant<|channel|>final<|message|>Done.", "Done.", [NOW]),
    ],
}

_XML_BROKEN = ["<tool_call>\nHello", "<tool_call><function=", "a <function=f b", "<tool_call>"]
_DEEPSEEK_BROKEN = [
    "<｜tool▁calls▁begin｜>",
    "a <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>x y",
    "<｜tool▁call▁begin｜>f",
]
_PYTHONIC_BROKEN = [
    "[1, 2]", "[nope(a=1)]", "[now(1)]", "[now(a=os.name)]", "[now(a=f())]", "[now(a=1", "now()", "Well, [now()]",
    "[now(**{})]", '[now(a="x)]', "[now(a=" + "[" * 300 + "]" * 300 + ")]",
]  # fmt: skip
BROKEN = {
    "hermes": [
        "<tool_call>",
        "<tool_call>\nHello\n</tool_call>",
        'x <tool_call>{"name": 3}</tool_call>\n',
        '<tool_call>{"name',
        '<tool_call>{"arguments": {"a": oops}, "name": "f"}</tool_call>',
        "</tool_call>",
        '<tool_call>{"a": 1}',
        '<tool_call>{"name": "f", "arguments": 5}</tool_call>',
    ],
    "granite": ["<|tool_call|>", "<|tool_call|>[]", "<tool_call>[1]"],
    "phi4_mini_json": ["functools", "import functools\nfunctools.cache", "functools[1]"],
    "llama3_json": ['{"name": "nope", "parameters": {}}', '{"a": 1}', "<|python_tag|>import os", '{"name": "get_w'],
    "mistral": ["[TOOL_CALLS]", "[TOOL_CALLS] []", "[TOOL_CALLS]f g", "[TOOL_CALLS]f[ARGS]"],
    "pythonic": _PYTHONIC_BROKEN,
    "llama4_pythonic": [*_PYTHONIC_BROKEN, "<|python_start|>x", "<|python_start|>"],
    "qwen3_coder": _XML_BROKEN,
    "qwen3_xml": _XML_BROKEN,
    "glm45": ["<tool_call>", "<tool_call>\nHello there", "<tool_call>a<b", "a <arg_key>"],
    "deepseek_v3": _DEEPSEEK_BROKEN,
    "deepseek_v31": _DEEPSEEK_BROKEN,
    "openai": [
        "<|channel|>",
        "Say <|channel|>commentary",
        "<|start|>assistant<|channel|>commentary to=functions.f",
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>[1]<|call|>",
        "<|start|>assistant to=functions.f",
        " to=functions.f",
    ],
    "kimi_k2": ["<|tool_calls_section_begin|>", "<|tool_call_begin|>functions.f:0", "<|tool_call_begin|>a b"],
}

FRAGMENTS = [
    "<tool_call>", "</tool_call>", "<tool", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "functools", "<|tool_call|>",
    "<function=f>", "</function>", "<parameter=a>", "</parameter>", "<arg_key>", "</arg_key>", "<arg_value>",
    "</arg_value>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>", "<think>", "</think>", "[THINK]", "[/THINK]", "Here is my response:",
    '{"name": "now", "arguments": {', '{"name": "now"', '"', "\\", "}", "]", "[", ", ", ": ", " ", "\n", "5", "now(",
    "🙂", "é", "text ", "-", "tru", "null", '"a": ',
]  # fmt: skip

_THINK = [
    (None, "<think>\nHm, é 🙂.\n\nYes.\n</think>\n\nHello!\n", "Hm, é 🙂.\n\nYes.", "Hello!\n"),
    (None, "<think>\n\n</think>\n\nHello", "", "Hello"),
    ("<assistant>\n<think>\n", "Hm < /think.\n</think>\nHello </think>", "Hm < /think.", "Hello </think>"),
    ("<think>\n\n</think>\n\n", "Hello <think>", "", "Hello <think>"),
    (None, "<think>never ends \n", "never ends \n", ""),
]
_PLAIN = [(None, "Hello <think> there", "", "Hello <think> there"), (None, " \nHello\n", "", " \nHello\n")]
_GPT = "<|channel|>analysis<|message|>Hm < é 🙂.<|end|><|start|>assistant<|channel|>"
REASONING = {
    "openai_gptoss": [
        (None, _GPT + "final<|message|>Hello\n", "Hm < é 🙂.", "Hello\n"),
        (None, _GPT + "final<|message|>Hello<|return|>", "Hm < é 🙂.", "Hello"),
        (None, _GPT + "analysis<|message|> More.<|end|>", "Hm < é 🙂. More.", ""),
        (None, _GPT + "commentary<|message|>First.<|end|><|start|>assistant", "Hm < é 🙂.", "First."),
        (None, _GPT + "final", "Hm < é 🙂.", ""),
        (None, "<|channel|>analysis<|message|>never ends", "never ends", ""),
        (None, "<|channel|>analysis<|message|>no end<|start|>assistant<|channel|>final<|message|>A", "no end", "A"),
        ("<|start|>assistant<|channel|>final<|message|>", "Hello", "", "Hello"),
        (None, "Plain.", "", "Plain."),
    ],
    "qwen3": _THINK + _PLAIN,
    "deepseek_r1": [*_THINK, (None, "Hm.\n</think>\n\nHello", "Hm.", "Hello"), (None, "Hm", "Hm", "")],
    "deepseek_v3": _THINK + _PLAIN,
    "glm45": _THINK + _PLAIN,
    "kimi_k2": _THINK + _PLAIN,
    "mistral": [(None, "[THINK]Hm.[/THINK]Hello", "Hm.", "Hello"), (None, "Hi [THINK]", "", "Hi [THINK]")],
    "granite": [
        (None, "Here is my thought process: Hm. Here is my response: Hello", "Hm.", "Hello"),
        (None, "Here's my thought process:\nHm.\n\nHere's my response:\nHello", "Hm.", "Hello"),
        (None, "Here is my house.", "", "Here is my house."),
    ],
}
