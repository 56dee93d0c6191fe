"""Where the time of steps went, as lines of text and as figures for a report."""

from collections.abc import Mapping
from typing import Any

from kvasir.messages import StepPhases
from kvasir.utils.spread import add_spreads, quantile

_KINDS = {"decode": "steps of decode rows", "prompt": "steps with prompts"}


def no_phases() -> StepPhases:
    return StepPhases(0, 0.0, {}, {}, {})


def add_phases(total: StepPhases, more: StepPhases) -> None:
    total.num_steps += more.num_steps
    total.worker_s += more.worker_s
    add_to(total.phase_s, more.phase_s)
    add_spreads(total.decode, more.decode)
    add_spreads(total.prompt, more.prompt)


def add_to(sums: dict[str, float], more: Mapping[str, float]) -> None:
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value


def phase_figures(phases: StepPhases) -> dict[str, dict[str, Any]]:
    """Kind of step -> `num_steps`; `step_ms`, `host_ms`, `worker_ms` and one of each phase: {"p50": .., "p90": ..}."""
    found: dict[str, dict[str, Any]] = {}
    for kind, spreads in (("decode", phases.decode), ("prompt", phases.prompt)):
        if spreads:
            found[kind] = {"num_steps": sum(spreads["step"].values())}
            for name, spread in spreads.items():
                found[kind][f"{name}_ms"] = {f"p{p}": quantile(spread, p / 100) * 1e3 for p in (50, 90)}
    return found


def figure_lines(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each kind of step that there was: medians, with the 90th percentile in brackets.

    `126 steps of decode rows, p50 (p90) ms: step 3.100 (3.304), host 0.120 (0.191): between 0.021 (0.030), ...`
    """
    lines = []
    for kind, of_kind in figures.items():
        figure = {
            name.removesuffix("_ms"): f"{name.removesuffix('_ms')} {ms['p50']:.3f} ({ms['p90']:.3f})"
            for name, ms in of_kind.items()
            if name.endswith("_ms")
        }
        step, host, worker = (figure.pop(name) for name in ("step", "host", "worker"))
        parts = ", ".join(figure.values())
        lines.append(f"{of_kind['num_steps']} {_KINDS[kind]}, p50 (p90) ms: {step}, {host}: {parts}; in the {worker}")
    return lines
