"""Writes a trained model as an ordinary checkpoint folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from model import Model
from safetensors.torch import load_file, save_file

GENERATION = {"do_sample": False, "eos_token_id": [2, 0], "pad_token_id": 3}


def folder_name(shape_name: str) -> str:
    """The folder of a model, by the name of its shape."""
    return "kvasir-demo-draft" if shape_name.startswith("draft") else "kvasir-demo"


def export(model: Model, tokenizer_folder: Path, folder: Path) -> None:
    """Config, bf16 weights and the tokenizer files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.shape.hf_config(), indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(GENERATION, indent=2) + "\n")
    weights = {name: value.detach().bfloat16().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if folder.resolve() != tokenizer_folder.resolve():
            shutil.copyfile(tokenizer_folder / name, folder / name)


def load(model: Model, folder: Path) -> None:
    """Take the weights of an exported folder."""
    model.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
