"""`config.json` and `generation_config.json` of a checkpoint folder -> frozen facts.

Only JSON is read: code that lies in a model folder is never imported. Neither torch nor transformers is needed.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvasir.config.rope import RopeConfig, parse_rope
from kvasir.errors import ConfigError

_DTYPES = ("float32", "float16", "bfloat16", "float64")

# What a family means when its config.json leaves a key out and the common default below would be wrong.
_FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4096, "num_key_value_heads": 8},
    "qwen3": {"head_dim": 128},
}
# Families whose window is on only when `use_sliding_window` says so, and then from layer `max_window_layers` on.
_OPTIONAL_WINDOW = ("qwen2", "qwen3")

# A key that is set to something true -> why this checkpoint cannot run.
_REFUSED = {
    "quantization_config": "the checkpoint is quantized, which is not supported yet; use the unquantized checkpoint",
    "text_config": "the checkpoint is of several modalities, which is not supported yet; use a text-only checkpoint",
    "is_encoder_decoder": "encoder-decoder models are not supported yet",
    "attn_logit_softcapping": "soft-capped attention logits are not supported by any model here yet",
    "final_logit_softcapping": "soft-capped logits are not supported by any model here yet",
}


@dataclass(frozen=True)
class ModelShape:
    """What the engine must know of a model before it builds it.

    Attributes:
        sliding_window: the window when some layer has one, else None.
        layer_windows: for each layer its window, or None for full attention.
        dtype: the dtype the weights were saved in ("float32" when the file does not say, as in transformers).
        eos_token_ids: `generation_config.json`'s when it names any, else `config.json`'s.
        raw: config.json as it was read, overrides applied.
    """

    architectures: tuple[str, ...]
    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    rope: RopeConfig = RopeConfig()
    sliding_window: int | None = None
    layer_windows: tuple[int | None, ...] = ()
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    dtype: str = "float32"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def context_length(self) -> int:
        """Positions the model can tell apart: yarn stretches the trained length, whatever the file says beside."""
        if self.rope.kind == "yarn":
            return max(self.max_position_embeddings, int(self.rope.original_max_position_embeddings * self.rope.factor))
        return self.max_position_embeddings


def load_model_shape(path: str | Path, overrides: dict[str, Any] | None = None) -> ModelShape:
    """Reads the shape of the model in folder `path`; `overrides` replace keys of config.json (objects are merged).

    Raises:
        ConfigError: a file is missing or broken, a key is missing or out of range, or a feature is not supported.
    """
    file = Path(path) / "config.json"
    raw = _merge(_read_json(file, required=True), overrides or {})
    where = str(file)
    for key, why in _REFUSED.items():
        if raw.get(key):
            raise ConfigError(f"{where}: {key} is set: {why}.")
    read = _Reader({**_FAMILY_DEFAULTS.get(raw.get("model_type", ""), {}), **raw}, where)
    num_heads, hidden_size = read.count("num_attention_heads"), read.count("hidden_size")
    num_kv_heads = read.count("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise ConfigError(
            f"{where}: num_attention_heads ({num_heads}) must be a multiple of num_key_value_heads ({num_kv_heads})."
        )
    if read.get("head_dim") is None and hidden_size % num_heads:
        raise ConfigError(
            f"{where}: hidden_size ({hidden_size}) is no multiple of num_attention_heads ({num_heads}) and head_dim "
            "is missing."
        )
    max_positions, windows = read.count("max_position_embeddings"), _layer_windows(read)
    return ModelShape(
        architectures=read.names("architectures"),
        model_type=str(read.get("model_type", "")),
        vocab_size=read.count("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=read.count("intermediate_size"),
        num_layers=read.count("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=read.count("head_dim", hidden_size // num_heads),
        max_position_embeddings=max_positions,
        rms_norm_eps=read.positive("rms_norm_eps", 1e-6),
        hidden_act=str(read.get("hidden_act", "silu")),
        rope=parse_rope(raw, max_positions, where),
        sliding_window=next((w for w in windows if w is not None), None),
        layer_windows=windows,
        tie_word_embeddings=bool(read.get("tie_word_embeddings", False)),
        attention_bias=bool(read.get("attention_bias", False)),
        mlp_bias=bool(read.get("mlp_bias", False)),
        dtype=_dtype(read),
        bos_token_id=read.get("bos_token_id") if isinstance(read.get("bos_token_id"), int) else None,
        eos_token_ids=_eos_ids(raw, Path(path)),
        raw=raw,
    )


# generation_config.json's name -> our SamplingParams field
_SAMPLING_KEYS = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}
_ALWAYS_KEYS = {"repetition_penalty": "repetition_penalty", "max_new_tokens": "max_tokens"}


def load_generation_config(path: str | Path) -> dict[str, Any]:
    """Sampling defaults the model's makers recommend; empty when the folder has no generation_config.json.

    `"do_sample": false` says greedy: temperature 0, and the file's own temperature and cut-offs are dead letters.
    """
    raw = _read_json(Path(path) / "generation_config.json", required=False)
    greedy = raw.get("do_sample") is False
    keys = _ALWAYS_KEYS if greedy else {**_SAMPLING_KEYS, **_ALWAYS_KEYS}
    found = {ours: raw[theirs] for theirs, ours in keys.items() if raw.get(theirs) is not None}
    return {"temperature": 0.0, **found} if greedy else found


class _Reader:
    """Typed reads of one JSON object; every complaint names the file and the key."""

    def __init__(self, raw: dict[str, Any], where: str):
        self._raw = raw
        self._where = where

    def get(self, key: str, default: Any = None) -> Any:
        value = self._raw.get(key)
        return default if value is None else value

    def _need(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is None:
            raise ConfigError(f"{self._where}: the key {key!r} is missing.")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        value = self._need(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{self._where}: {key} must be a whole number of at least 1, got {value!r}.")
        return value

    def positive(self, key: str, default: float) -> float:
        value = self._need(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise ConfigError(f"{self._where}: {key} must be a number above 0, got {value!r}.")
        return float(value)

    def names(self, key: str) -> tuple[str, ...]:
        value = self._need(key, None)
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise ConfigError(f"{self._where}: {key} must be a list of names, got {value!r}.")
        return tuple(value)

    def fail(self, message: str) -> ConfigError:
        return ConfigError(f"{self._where}: {message}")


def _layer_windows(read: _Reader) -> tuple[int | None, ...]:
    num_layers = read.count("num_hidden_layers")
    optional = read.get("model_type") in _OPTIONAL_WINDOW
    if read.get("sliding_window") is None or (optional and not read.get("use_sliding_window", False)):
        return (None,) * num_layers
    window = read.count("sliding_window")
    types = read.get("layer_types")
    if types is None:
        first = read.get("max_window_layers", 28) if optional else 0
        return tuple(window if i >= first else None for i in range(num_layers))
    if not isinstance(types, list) or len(types) != num_layers:
        raise read.fail(f"layer_types must list the {num_layers} layers, got {types!r}.")
    unknown = sorted({str(t) for t in types} - {"full_attention", "sliding_attention"})
    if unknown:
        raise read.fail(f"layer_types has {unknown}; supported: full_attention, sliding_attention.")
    return tuple(window if t == "sliding_attention" else None for t in types)


def _dtype(read: _Reader) -> str:
    name = str(read.get("dtype", read.get("torch_dtype", "float32"))).removeprefix("torch.")
    if name not in _DTYPES:
        raise read.fail(f"dtype {name!r} is not one of {', '.join(_DTYPES)}.")
    return name


def _eos_ids(raw: dict[str, Any], folder: Path) -> tuple[int, ...]:
    generation = _read_json(folder / "generation_config.json", required=False)
    value = generation.get("eos_token_id")
    value = raw.get("eos_token_id") if value is None else value
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise ConfigError(f"{folder}: eos_token_id must be a token id or a list of them, got {value!r}.")
    return tuple(dict.fromkeys(ids))


def _read_json(file: Path, required: bool) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not required:
            return {}
        raise ConfigError(f"{file} does not exist; a model folder needs a {file.name}.") from None
    except (OSError, ValueError) as error:  # ValueError: broken JSON or broken UTF-8
        raise ConfigError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file} must hold a JSON object, got {type(value).__name__}.")
    return value


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
