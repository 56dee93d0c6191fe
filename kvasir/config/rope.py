"""Rotary position settings of a checkpoint, read from every spelling that `config.json` files use."""

import math
from dataclasses import dataclass
from typing import Any

from kvasir.errors import ConfigError

KINDS = ("default", "linear", "llama3", "yarn")
_NEEDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}


@dataclass(frozen=True)
class RopeConfig:
    """One model's rotary embedding.

    Attributes:
        kind: how frequencies are stretched beyond the trained length, one of `KINDS`.
        theta: base of the geometric row of wavelengths.
        factor: how many times the trained length is stretched.
        original_max_position_embeddings: the trained length (llama3 and yarn).
        attention_factor: cos and sin are multiplied by it (yarn).
        beta_fast, beta_slow: turns over the trained length above which a frequency is kept, below which it
            is divided by `factor` (yarn).
        truncate: round the border between the two to whole dimensions (yarn).
        low_freq_factor, high_freq_factor: the same border as fractions of the trained length (llama3).
        partial_rotary_factor: the part of each head that turns; the rest passes through.
    """

    kind: str = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    partial_rotary_factor: float = 1.0


def parse_rope(raw: dict[str, Any], max_position_embeddings: int, where: str) -> RopeConfig:
    """Reads `rope_parameters` (transformers 5) or `rope_theta` + `rope_scaling` (before) out of a config.

    Raises:
        ConfigError: a kind that is not supported, or a value that is missing or out of range.
    """
    key, given = _given(raw, where)
    kind = given.get("rope_type", "default")
    if kind not in KINDS:
        raise ConfigError(f"{where}: {key} asks for rotary kind {kind!r}; supported kinds: {', '.join(KINDS)}.")
    for need in _NEEDS[kind]:
        if given.get(need) is None:
            raise ConfigError(f"{where}: {key}.{need} is missing; rotary kind {kind!r} needs it.")

    def number(name: str, default: float, low: float = 0.0) -> float:
        value = given.get(name, raw.get(name) if name in ("rope_theta", "partial_rotary_factor") else None)
        value = default if value is None else value
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value <= low:
            raise ConfigError(f"{where}: {key}.{name} must be a number above {low:g}, got {value!r}.")
        return float(value)

    # Some checkpoints keep the trained length beside the rotary settings; then it wins over the one inside.
    beside = raw.get("original_max_position_embeddings")
    original = int(beside or number("original_max_position_embeddings", max_position_embeddings))
    rope = RopeConfig(
        kind=kind,
        theta=number("rope_theta", 10_000.0),
        factor=number("factor", 1.0),
        original_max_position_embeddings=original if kind in ("llama3", "yarn") else 0,
        attention_factor=_yarn_attention_factor(given, number) if kind == "yarn" else 1.0,
        beta_fast=number("beta_fast", 32.0),
        beta_slow=number("beta_slow", 1.0),
        truncate=bool(given.get("truncate", True)),
        low_freq_factor=number("low_freq_factor", 1.0),
        high_freq_factor=number("high_freq_factor", 4.0),
        partial_rotary_factor=number("partial_rotary_factor", 1.0),
    )
    if kind == "llama3" and rope.high_freq_factor <= rope.low_freq_factor:
        raise ConfigError(
            f"{where}: {key}.high_freq_factor ({rope.high_freq_factor:g}) must be above low_freq_factor "
            f"({rope.low_freq_factor:g})."
        )
    return rope


def _given(raw: dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """The key to blame in messages, and the settings of both spellings together (the older one wins, as in
    transformers, so that an override written the old way works on a new file)."""
    merged: dict[str, Any] = {}
    blame = "rope_parameters"
    for key in ("rope_parameters", "rope_scaling"):
        part = raw.get(key)
        if not part:
            continue
        if not isinstance(part, dict):
            raise ConfigError(f"{where}: {key} must be an object, got {part!r}.")
        if any(isinstance(v, dict) for v in part.values()):
            raise ConfigError(f"{where}: {key} gives each layer type its own rotary settings, which is not supported.")
        kind = part.get("rope_type") or part.get("type")
        merged.update(part, **({"rope_type": kind} if kind else {}))
        blame = key
    return blame, merged


def _yarn_attention_factor(given: dict[str, Any], number: Any) -> float:
    """Longer contexts flatten attention; yarn sharpens it again with a factor that grows with log(factor)."""
    if given.get("attention_factor") is not None:
        return number("attention_factor", 1.0)
    factor = number("factor", 1.0)

    def sharpness(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if given.get("mscale") and given.get("mscale_all_dim"):
        return sharpness(number("mscale", 1.0)) / sharpness(number("mscale_all_dim", 1.0))
    return sharpness(1.0)
