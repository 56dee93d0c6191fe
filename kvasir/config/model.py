"""Which model, and how it is read."""

from dataclasses import dataclass, field
from typing import Any

from kvasir.config.option import AUTO, at_least, only, option

DEMO_MODEL = "kvasir-demo"
"""The model that ships inside the package."""

DTYPES = ("bfloat16", "float16", "float32")


def _dtype_name(value: Any) -> str:
    """Takes `torch.bfloat16` as well as "bfloat16", and the short names half and float."""
    name = str(value).removeprefix("torch.").lower()
    return {"half": "float16", "float": "float32"}.get(name, name)


def _length(value: Any) -> Any:
    return AUTO if value in (-1, "-1") else value


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and how it is read.

    `model_path`, `tokenizer_path` and `max_model_len_is_auto` are no options: `resolve` fills them in.
    """

    model: str = option(
        DEMO_MODEL,
        help="Folder with config.json and safetensors, or a Hugging Face hub id. The default ships with Kvasir.",
    )
    tokenizer: str | None = option(None, help="Folder or hub id of the tokenizer, if it is not the model's own.")
    revision: str | None = option(None, help="Branch, tag or commit of the hub repository.")
    tokenizer_revision: str | None = option(None, help="The same for a tokenizer that has its own repository.")
    dtype: str = option(
        AUTO,
        help="Type of weights and activations. auto: what the checkpoint has, if this machine computes it fast; "
        "else float32 on CPU, bfloat16 on a card.",
        choices=DTYPES,
        convert=_dtype_name,
        affects_graph=True,
    )
    max_model_len: int = option(
        AUTO,
        help="Longest prompt plus output, in tokens; 32k and 1M are understood. auto: what the model was made for, "
        "less if the KV cache cannot hold one request of that length.",
        check=at_least(1),
        convert=_length,
        affects_graph=True,
    )
    seed: int = option(0, help="Seed of the engine: requests without a seed of their own derive theirs from it.")
    served_model_name: list[str] = option(
        AUTO, help="Names under which the API answers; the first one is put into replies. auto: the model as given."
    )
    skip_tokenizer_init: bool = option(
        False, help="Load no tokenizer: prompts must be token ids, outputs have no text."
    )
    chat_template: str | None = option(
        None, help="Jinja chat template, as text or as the path of a file, in place of the model's own."
    )
    generation_config: str = option(
        AUTO,
        help="Folder whose generation_config.json gives the default sampling parameters. auto: the model's folder. "
        "none (or vllm): neutral defaults.",
    )
    override_generation_config: dict[str, Any] = option(
        {}, help='JSON with default sampling parameters that win over the file, such as {"temperature": 0.5}.'
    )
    hf_overrides: dict[str, Any] = option(
        {}, help="JSON merged over the model's config.json before it is read.", metavar="JSON"
    )
    max_logprobs: int = option(
        20, help="Most log-probabilities a request may ask for per token; -1 lifts the bound.", check=at_least(-1)
    )
    enforce_eager: bool = option(
        False, help="Never record CUDA graphs; slower, starts sooner, easier to debug.", affects_graph=True
    )
    trust_remote_code: bool = option(
        False,
        help="Reserved: Kvasir never runs code from a model folder.",
        check=only(
            False,
            "must stay off: Kvasir runs no code from a model folder; models are implemented in kvasir.models "
            "or registered with ModelRegistry.register_model",
        ),
    )
    model_path: str = field(default="")
    tokenizer_path: str = field(default="")
    max_model_len_is_auto: bool = field(default=True)
