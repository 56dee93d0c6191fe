"""A model's forward pass, compiled piece by piece around attention: trace, split, mend, compile, string together."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from kvasir.compilation.backends import Run, close_inductor, eager, has_work_for_inductor, inductor
from kvasir.compilation.cache import make_folder
from kvasir.compilation.passes import PassManager
from kvasir.compilation.split import Piece, Plan, split
from kvasir.compilation.trace import OpaqueLayer, Tracer
from kvasir.logger import get_logger

logger = get_logger(__name__)


@dataclass(frozen=True)
class CompileSettings:
    """How to compile.

    Attributes:
        backend: "eager" or "inductor".
        opaque_ops: our ops that stay one node; the others open up, for the backend to fuse.
        passes_off: passes that are switched off.
        inductor_options: torch._inductor.config's.
        cache: where inductor keeps what it makes; named after everything the code depends on.
        dump: folder for the pieces' graphs as text, if wanted.
    """

    backend: str
    opaque_ops: Sequence[str]
    cache: Path
    passes_off: Sequence[str] = ()
    inductor_options: dict[str, Any] = field(default_factory=dict)
    dump: Path | None = None


class CompiledForward:
    """(input_ids [T], positions [T]) -> hidden [T, E], for any T; with last [B] -> [B, E], for any B.

    Two plans of steps, of which all but the last layer's pieces are the same.

    Attributes:
        num_pieces: that differ; nothing is compiled after the constructor.
    """

    def __init__(self, everything: Plan, only_last: Plan, runs: dict[Piece, Run]):
        self.num_pieces = len(runs)
        self._everything = _Steps(everything, runs)
        self._only_last = _Steps(only_last, runs)

    def __call__(
        self, input_ids: torch.Tensor, positions: torch.Tensor, last: torch.Tensor | None = None
    ) -> torch.Tensor:
        if last is None:
            return self._everything(input_ids, positions)
        return self._only_last(input_ids, positions, last)


class _Steps:
    """A plan with what runs it."""

    def __init__(self, plan: Plan, runs: dict[Piece, Run]):
        self._values = [plan.constants.get(i) for i in range(plan.num_values)]
        self._arguments = plan.arguments
        self._result = plan.result
        self._steps = [
            (runs[s.work] if isinstance(s.work, Piece) else s.work, s.inputs, s.outputs, s.dead) for s in plan.steps
        ]

    def __call__(self, *arguments: torch.Tensor) -> torch.Tensor:
        values: list[Any] = self._values.copy()
        for number, tensor in zip(self._arguments, arguments, strict=True):
            values[number] = tensor
        for run, inputs, outputs, dead in self._steps:
            for number, tensor in zip(outputs, run([values[i] for i in inputs]), strict=True):
                values[number] = tensor
            for number in dead:
                values[number] = None
        return values[self._result]


class CheckedForward:
    """A compiled forward pass until its first call in each form has gone well: if one fails, the model runs as it is.

    Compilers may fail late, when generated code is first run.
    """

    def __init__(self, model: torch.nn.Module, compiled: CompiledForward):
        self._model = model
        self._compiled = compiled
        self._forms_left = {False, True}  # without last, and with it

    def __call__(
        self, input_ids: torch.Tensor, positions: torch.Tensor, last: torch.Tensor | None = None
    ) -> torch.Tensor:
        try:
            hidden = self._compiled(input_ids, positions, last)
        except Exception as error:
            _give_up(error)
            del self._model.forward  # from here on the class's own
            return self._model.forward(input_ids, positions, last)
        self._forms_left.discard(last is not None)
        if not self._forms_left:
            self._model.forward = self._compiled
        return hidden


def compile_forward(
    model: torch.nn.Module,
    opaque_layers: Sequence[OpaqueLayer],
    device: torch.device,
    settings: CompileSettings,
    progress: Callable[[], None] = lambda: None,
) -> CompiledForward | None:
    """Compiles `model.forward` and puts the result in its place; None, and a line in the log, if that cannot be done.

    Parameters are taken as they are now: weights may be written in place later, but not replaced.

    Args:
        opaque_layers: those that read the forward context; they run as they are.
        progress: called when tracing is done and after each piece, since all of it together may take minutes.
    """
    started = time.perf_counter()
    try:
        pieces: dict[str, Piece] = {}
        tracer = Tracer(model, opaque_layers, settings.opaque_ops, device)
        everything, only_last = (split(tracer.trace(with_last), pieces) for with_last in (False, True))
        traced = time.perf_counter()
        progress()
        passes = PassManager(settings.opaque_ops, settings.passes_off)
        for piece in pieces.values():
            passes.run(piece.module)
        _dump(pieces.values(), settings.dump)
        runs = _compile(pieces.values(), tracer.fake_mode, device, settings, progress)
    except Exception as error:
        _give_up(error)
        return None
    compiled = CompiledForward(everything, only_last, runs)
    model.forward = CheckedForward(model, compiled)
    counts = ", ".join(f"{name} {count}" for name, count in passes.counts.items()) or "none"
    logger.info(
        "forward compiled: %d pieces, %d of them different, code generated for %d; passes: %s; traced in %.2f s, "
        "compiled in %.2f s",
        sum(p.uses for p in pieces.values()), len(pieces), sum(_is_generated(p, settings) for p in runs), counts,
        traced - started, time.perf_counter() - traced,
    )  # fmt: skip
    return compiled


def _compile(
    pieces: Iterable[Piece],
    fake_mode: FakeTensorMode,
    device: torch.device,
    settings: CompileSettings,
    progress: Callable[[], None],
) -> dict[Piece, Run]:
    generated = [piece for piece in pieces if _is_generated(piece, settings)]
    runs = {piece: eager(piece, device) for piece in pieces if piece not in generated}
    if generated:
        make_folder(settings.cache)
        try:
            for piece in generated:
                runs[piece] = inductor(piece, fake_mode, settings.cache, settings.inductor_options)
                progress()
        finally:
            close_inductor()
    return runs


def _is_generated(piece: Piece, settings: CompileSettings) -> bool:
    return settings.backend == "inductor" and has_work_for_inductor(piece)


def _dump(pieces: Iterable[Piece], folder: Path | None) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for i, piece in enumerate(pieces):
            (folder / f"piece_{i}.py").write_text(f"# used {piece.uses} times\n{piece.module.code}")


def _give_up(error: Exception) -> None:
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    logger.warning("not compiled, the model runs as it is: %s: %s", type(error).__name__, first)
    logger.debug("why the model was not compiled", exc_info=error)
