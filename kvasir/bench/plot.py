"""Small charts as SVG text, without a plotting library: bars, and lines over a common axis."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 720, 190, 90, 44, 24
_HEIGHT, _BOTTOM = 320, 44  # of a chart of lines
_COLOURS = ("#2f6f9f", "#c2603a", "#4a8f55", "#8a5aa3", "#b0902f", "#5f6b76")
MAX_BARS = 200


def bars(title: str, rows: Sequence[tuple[str, float]], unit: str) -> str:
    """One horizontal bar for each (label, value >= 0)."""
    rows = rows[:MAX_BARS]
    most = max((value for _, value in rows), default=0.0) or 1.0
    room = _WIDTH - _LEFT - _RIGHT
    parts = []
    for i, (label, value) in enumerate(rows):
        y, length = _TOP + i * _ROW, room * value / most
        parts.append(_text(_LEFT - 8, y + 14, label, "end"))
        parts.append(
            f'<rect x="{_LEFT}" y="{y + 3}" width="{length:.1f}" height="{_ROW - 8}" fill="{_COLOURS[0]}" rx="2"/>'
        )
        parts.append(_text(_LEFT + length + 6, y + 14, f"{_number(value)} {unit}"))
    return _document(title, parts, _TOP + len(rows) * _ROW + 12)


def lines(title: str, series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """One line for each name; both axes begin at 0."""
    points = [p for line in series.values() for p in line]
    right = _step_up(max((x for x, _ in points), default=0.0))
    top = _step_up(max((y for _, y in points), default=0.0))
    left, bottom, width = 70, _HEIGHT - _BOTTOM, _WIDTH - 70 - 24
    height = bottom - _TOP

    def place(x: float, y: float) -> tuple[float, float]:
        return left + width * x / right, bottom - height * y / top

    parts = []
    for i in range(5):
        x, y = place(right * i / 4, top * i / 4)
        parts.append(f'<path d="M{left} {y:.1f}H{left + width}" stroke="#d8dde2"/>')
        parts.append(_text(left - 8, y + 4, _number(top * i / 4), "end"))
        parts.append(_text(x, bottom + 18, _number(right * i / 4), "middle"))
    parts.append(_text(left + width / 2, bottom + 36, x_label, "middle"))
    parts.append(_text(left - 8, _TOP - 10, y_label, "start"))
    for i, (name, line) in enumerate(series.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*p) for p in line))
        if path:
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(left + width, _TOP - 10 + 16 * i, name, "end", colour))
    return _document(title, parts, _HEIGHT)


def plot_of(found: dict[str, Any]) -> str:
    """The chart that suits a report of `kvasir bench`."""
    kind = found["bench"]
    if kind == "throughput":
        return lines(
            f"{found['output_tokens_per_s']:.0f} output tokens a second",
            {"tokens of finished answers": [(0.0, 0.0), *map(tuple, found["progress"])]},
            "seconds",
            "tokens",
        )
    if kind == "latency":
        rows = [(f"run {i + 1}", seconds) for i, seconds in enumerate(found["runs_s"])]
        return bars(f"{found['batch_size']} prompts, {found['output_len']} tokens each", rows, "s")
    if kind == "startup":
        return bars("from the command to a healthy server, and to the first token", _starts(found), "s")
    if kind == "kernels":
        title = f"share of {found['bandwidth_gb_s']:.1f} GB/s, the measured bandwidth ({found['device']})"
        return bars(title, [(f"{k['op']} {k['shape']}", 100 * k["fraction"]) for k in found["kernels"]], "%")
    rows = [(f"{name} {p}", v) for name in ("ttft", "tpot", "itl") for p, v in found[f"{name}_ms"].items() if v]
    return bars("latency", rows, "ms")


def _starts(found: dict[str, Any]) -> list[tuple[str, float]]:
    rows = []
    for i, run in enumerate(found["runs"]):
        rows.append((f"start {i + 1}, healthy", run["healthy_s"]))
        rows.append((f"start {i + 1}, first token", run["first_token_s"]))
    return rows


def _document(title: str, parts: Sequence[str], height: float) -> str:
    body = "\n".join((_text(12, 22, title, "start", "#1c2329", 15), *parts))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" '
        f'height="{height:.0f}" font-family="system-ui, sans-serif">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "#46525c", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{escape(text)}</text>'
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _step_up(value: float) -> float:
    """The next round number: 1, 2, 2.5 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= value)
