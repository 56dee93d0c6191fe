"""Rules for the model: type of the numbers, context length, names."""

from kvasir.assembly.facts import Facts
from kvasir.assembly.rules.decision import Decision
from kvasir.config.hf import ModelShape
from kvasir.config.model import DEMO_MODEL, DTYPES
from kvasir.config.option import AUTO
from kvasir.errors import ConfigError


def dtype(asked: str, shape: ModelShape, facts: Facts) -> Decision:
    """What the checkpoint has where the machine is fast at it.

    On CPU, 16-bit checkpoints stay 16 bits wide only where bfloat16 products are native (float16 ones are slow
    everywhere); else they become float32, which is exact. On a card a float32 checkpoint becomes 16 bits wide: half
    the memory.
    """
    if asked != AUTO:
        _check_dtype(asked, facts)
        return Decision("dtype", asked, "asked for")
    saved = shape.dtype if shape.dtype in DTYPES else "float32"
    if facts.device == "cpu":
        if saved == "float32":
            return Decision("dtype", "float32", "the checkpoint's")
        if facts.fast_bfloat16:
            return Decision("dtype", "bfloat16", f"native on this CPU; the checkpoint is {saved}")
        return Decision("dtype", "float32", f"this CPU is slow at the checkpoint's {saved}")
    if saved == "float16":
        return Decision("dtype", "float16", "the checkpoint's")
    if not facts.fast_bfloat16:
        return Decision("dtype", "float16", f"this card has no bfloat16, the checkpoint is {saved}")
    why = "the checkpoint's" if saved == "bfloat16" else f"half the memory of the checkpoint's {saved}"
    return Decision("dtype", "bfloat16", why)


def _check_dtype(asked: str, facts: Facts) -> None:
    if asked == "bfloat16" and facts.device == "cuda" and not facts.fast_bfloat16:
        major, minor = facts.capability
        raise ConfigError(
            f"dtype is bfloat16, but the card's compute capability is {major}.{minor} and it starts at 8.0; "
            "use --dtype float16.",
            param="dtype",
        )


def max_model_len(asked: int | str, shape: ModelShape) -> Decision:
    """The model's own context, or less if asked.

    Raises:
        ConfigError: more is asked for than the model can tell apart.
    """
    bound = shape.context_length
    if asked == AUTO:
        return Decision("max_model_len", bound, "what the model was made for")
    if int(asked) > bound:
        raise ConfigError(
            f"max_model_len is {asked}, but the model's context ends at {bound} tokens. Lower it, or stretch the model "
            'with hf_overrides, such as {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, '
            f'"original_max_position_embeddings": {bound}}}}}.',
            param="max_model_len",
        )
    return Decision("max_model_len", asked, "asked for")


def served_model_name(asked: list[str] | str, model: str) -> Decision:
    if asked != AUTO and asked:
        return Decision("served_model_name", list(asked), "asked for")
    name = DEMO_MODEL if model == DEMO_MODEL else model.rstrip("/") or model
    return Decision("served_model_name", [name], "the model as given")
