"""Checkpoint -> parameters: first a plan made from the headers and checked whole, then the copies.

Each tensor goes from the mapped file straight into its slice of the parameter; nothing is assembled in between.
"""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from kvasir.distributed.shard import Piece, whole
from kvasir.errors import ConfigError
from kvasir.loader.checkpoint import StoredTensor, open_weights, stored_tensors
from kvasir.models.weights import Rule, checkpoint_name, place

_FLOATS = ("F64", "F32", "F16", "BF16")
_NAMES_SHOWN = 6
_TASK_BYTES = 128 << 20  # a reader thread's unit of work: long enough to keep the device busy, short enough to share
_GPU_THREADS = 4
_BAR_BYTES = 256 << 20  # less than this is there before a progress bar could be read


@dataclass(frozen=True)
class Copy:
    tensor: StoredTensor
    piece: Piece
    target: torch.Tensor

    @property
    def num_bytes(self) -> int:
        return self.target.numel() * self.target.element_size()


def plan_copies(
    model: torch.nn.Module, tensors: Iterable[StoredTensor], rules: tuple[Rule, ...], tied: bool
) -> list[Copy]:
    """What goes where.

    Raises:
        ConfigError: a tensor is missing, unexpected, double, or of another shape or kind; the text has all of them.
    """
    parameters = dict(model.named_parameters())
    wanted = {(name, part): piece for name, p in parameters.items() for part, piece in _pieces(p).items()}
    copies: list[Copy] = []
    seen: set[tuple[str, str]] = set()
    unexpected, double, misshapen, not_float = [], [], [], []
    for tensor in tensors:
        where = place(tensor.name, rules, tied)
        if where is None:
            continue
        key = (where.parameter, where.part)
        if key not in wanted:
            unexpected.append(tensor.name)
            continue
        if key in seen:
            double.append(tensor.name)
            continue
        seen.add(key)
        if tensor.shape != wanted[key].source_shape:
            expected = list(wanted[key].source_shape)
            misshapen.append(f"{tensor.name} has {list(tensor.shape)} instead of {expected}")
        elif tensor.dtype not in _FLOATS:
            not_float.append(f"{tensor.name} is {tensor.dtype}")
        else:
            copies.append(Copy(tensor, wanted[key], wanted[key].target(parameters[where.parameter])))
    missing = [checkpoint_name(*key, rules) for key in wanted if key not in seen]
    _complain(
        {
            "tensors are missing from the checkpoint": missing,
            "tensors are unexpected (the model has no such parameter)": unexpected,
            "tensors appear twice": double,
            "shapes do not match config.json": misshapen,
            "tensors are not floating point (is the checkpoint quantized?)": not_float,
        }
    )
    return copies


def fill_from_files(
    model: torch.nn.Module,
    files: list[Path],
    rules: tuple[Rule, ...],
    tied: bool,
    use_tqdm: bool,
    num_threads: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> int:
    """Fills every parameter of `model`; returns the bytes written. `num_threads` 0: by the target device."""
    copies = plan_copies(model, stored_tensors(files), rules, tied)
    total = sum(copy.num_bytes for copy in copies)
    on_gpu = any(copy.target.is_cuda for copy in copies)
    hidden = not use_tqdm or total < _BAR_BYTES
    threads = num_threads or (_GPU_THREADS if on_gpu else 1)
    with (
        tqdm(total=total, unit="B", unit_scale=True, desc="Loading weights", disable=hidden) as bar,
        ThreadPoolExecutor(threads, thread_name_prefix="kvasir-load") as pool,
    ):
        for done in as_completed([pool.submit(_run, task) for task in _tasks(copies)]):
            bar.update(done.result())
            progress()
    return total


def _pieces(parameter: torch.nn.Parameter) -> dict[str, Piece]:
    """A parameter that a plugin's model made by hand is taken whole."""
    return getattr(parameter, "pieces", None) or {"": Piece(tuple(whole(n) for n in parameter.shape))}


def _tasks(copies: list[Copy]) -> list[list[Copy]]:
    """Cuts the plan into runs of copies from one file, of about `_TASK_BYTES` each."""
    tasks: list[list[Copy]] = []
    size = math.inf
    for copy in copies:
        if size >= _TASK_BYTES or tasks[-1][0].tensor.file != copy.tensor.file:
            tasks.append([])
            size = 0
        tasks[-1].append(copy)
        size += copy.num_bytes
    return tasks


@torch.no_grad()  # the switch is per thread, so it is thrown here and not by the caller
def _run(copies: list[Copy]) -> int:
    with open_weights(copies[0].tensor.file) as handle:
        for copy in copies:
            name, piece = copy.tensor.name, copy.piece
            if all(span.size == span.full for span in piece.spans):
                copy.target.copy_(handle.get_tensor(name))
            else:
                copy.target.copy_(handle.get_slice(name)[piece.source_index])
    return sum(copy.num_bytes for copy in copies)


def _complain(problems: dict[str, list[str]]) -> None:
    lines = []
    for what, names in problems.items():
        if names:
            more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
            lines.append(f"{len(names)} {what}: {', '.join(names[:_NAMES_SHOWN])}{more}")
    if lines:
        raise ConfigError("The weights do not fit the model. " + "; ".join(lines) + ".")
