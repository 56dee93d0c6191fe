"""Tiny random checkpoints of every supported family, made by transformers: the yardstick of the model tests.

    folder = checkpoint("qwen3")        # config.json, model.safetensors, a small BPE tokenizer with a chat template
    model = reference_model("qwen3")    # the same weights, as transformers' own model in float32

Each is made once and kept in the temporary folder under a key of this file and transformers' version.
Nothing is downloaded; the tokenizer is trained on the standard library's docstrings.
"""

import functools
import hashlib
import importlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

VOCAB = 768
SPECIAL_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<tool_call>", "</tool_call>", "<think>", "</think>",
]  # fmt: skip
CHAT_TEMPLATE = """\
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
_CORPUS = (
    "argparse ast collections datetime difflib functools inspect itertools json logging os random re string textwrap"
)

_COMMON = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.2,
    bos_token_id=0, eos_token_id=2, pad_token_id=3,
)  # fmt: skip


def _rope(kind: str, **more: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, "factor": 4.0, **more}}


# name -> (family of transformers' classes, what differs from _COMMON)
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-bias": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-sharded": ("Llama", {}),  # the weights of "llama" in several files
    "llama3-rope": ("Llama", _rope(
        "llama3", original_max_position_embeddings=256, low_freq_factor=1.0, high_freq_factor=4.0)),
    "llama-yarn": ("Llama", _rope("yarn", original_max_position_embeddings=512)),
    "llama-linear-rope": ("Llama", _rope("linear")),
    "qwen2": ("Qwen2", {}),
    "qwen2-swa": ("Qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "mistral-swa": ("Mistral", {"head_dim": 16, "sliding_window": 32}),
}  # fmt: skip


@functools.cache
def _root() -> Path:
    import transformers

    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    root = Path(tempfile.gettempdir()) / f"kvasir-fixtures-{os.getuid()}" / f"{transformers.__version__}-{key}"
    root.mkdir(parents=True, exist_ok=True)
    return root


@functools.cache
def checkpoint(name: str) -> Path:
    """The folder of the tiny model `name`, one of CHECKPOINTS."""
    return _made(name, lambda folder: _make_checkpoint(name, folder))


@functools.cache
def tokenizer_folder() -> Path:
    return _made("tokenizer", _make_tokenizer)


@functools.cache
def reference_model(name: str) -> Any:
    """transformers' model of `name`, float32, with the plain attention that is easiest to trust."""
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint(name), dtype="float32", attn_implementation="eager"
    ).eval()


def _made(name: str, make: Any) -> Path:
    """Made aside and moved into place, so that parallel test runs never see half a folder."""
    folder = _root() / name
    if not folder.is_dir():
        aside = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=_root()))
        make(aside)
        try:
            aside.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(aside)
    return folder


def _make_tokenizer(folder: Path) -> None:
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    modules = [importlib.import_module(name) for name in _CORPUS.split()]
    documented = [getattr(o, "__doc__", None) for m in modules for o in [m, *vars(m).values()]]
    texts = [text for text in documented if isinstance(text, str)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCAB, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
        ),
    )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)


def _make_checkpoint(name: str, folder: Path) -> None:
    import torch
    import transformers

    family, changes = CHECKPOINTS[name]
    config = getattr(transformers, f"{family}Config")(**{**_COMMON, **changes})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():  # norms and biases start as ones and zeros, with which a test could not tell them apart
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder, **({"max_shard_size": "200KB"} if name == "llama-sharded" else {}))
    for file in tokenizer_folder().iterdir():
        shutil.copy(file, folder / file.name)
