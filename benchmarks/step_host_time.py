"""Host time of a decode step without a card: the offline engine and the real runner, over graphs on paper.

    python benchmarks/step_host_time.py [--rows 1 32 256 1024] [--input-len 64] [--output-len 128]

The model computes nothing and a "replay" only hands out the tensors of the capture, so what is left is the host's part of
a step but for the driver's calls. Prints the phases that `--enable-step-times` measures: median and 90th percentile.
The first run of the same shape is not counted.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from kvasir.assembly import core
from kvasir.attention.reference import ReferenceBuilder
from kvasir.bench.offline import throughput
from kvasir.compilation import CudagraphDispatcher, CudagraphMode, CUDAGraphWrapper, GraphPool
from kvasir.config import EngineArgs
from kvasir.executor import UniProcExecutor
from kvasir.messages import PROTOCOL_VERSION, Ready, SchedulerOutput, TokenMasks
from kvasir.observability.step_report import figure_lines
from kvasir.sampling import Sampler, SamplingState
from kvasir.structured.worker import TokenMaskProcessor
from kvasir.worker.forward import DecodePass, PassParts, RaggedPass
from kvasir.worker.graphs import StepGraphs
from kvasir.worker.outputs import PendingStep
from kvasir.worker.runner import ModelRunner
from kvasir.worker.states import RequestStates

CPU = torch.device("cpu")
VOCAB, MAX_LEN, BLOCK = 512, 1024, 16
CONFIG = Path(__file__).parent / "models" / "qwen3-0.6b"  # only so that the options resolve


class NoModel:
    def forward(self, ids: torch.Tensor, positions: torch.Tensor, last: torch.Tensor | None = None) -> torch.Tensor:
        return torch.zeros(len(ids) if last is None else len(last), 2)

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(hidden), VOCAB)


class PaperWorker:
    def __init__(self, rows: int):
        self._rows = rows
        self._masks = TokenMaskProcessor(CPU)

    def start(self) -> Ready:
        rows, mode = self._rows, CudagraphMode.FULL_DECODE_ONLY
        sampling = SamplingState(rows, VOCAB, CPU, (self._masks,))
        states = RequestStates(rows, MAX_LEN, BLOCK, sampling.uploads)
        dispatcher = CudagraphDispatcher(mode, [rows])
        parts = PassParts(NoModel(), states, ReferenceBuilder(), [], sampling.uploads, dispatcher, 8192)
        decode, ragged, sampler = DecodePass(parts, GraphPool()), RaggedPass(parts, None), Sampler(sampling)
        graphs = StepGraphs(states, sampler, decode, ragged, None)
        self._runner = ModelRunner(parts.model, states, sampler, ragged, decode, graphs)
        graphs.capture_first()
        blocks = rows * MAX_LEN // BLOCK
        return Ready(PROTOCOL_VERSION, blocks, BLOCK, MAX_LEN, rows, 1, "paper", "paper")

    def execute_model(self, plan: SchedulerOutput) -> None:
        self._runner.execute_model(plan)

    def sample_tokens(self, step_id: int, masks: TokenMasks | None = None) -> PendingStep:
        self._masks.take(masks)
        return self._runner.sample_tokens(step_id)

    def call(self, name: str, args: dict[str, Any]) -> None:
        return None

    def stop(self) -> None:
        pass


def use_paper() -> None:
    """Captures and replays without a card."""

    def capture(self: CUDAGraphWrapper, key: Any) -> Any:
        self._graphs[key] = None, self._run(key)
        return self._graphs[key][1]

    def call(self: CUDAGraphWrapper, key: Any) -> Any:
        captured = self._graphs.get(key)
        return self._run(key) if captured is None else captured[1]

    CUDAGraphWrapper.capture, CUDAGraphWrapper.__call__ = capture, call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32, 256, 1024])
    parser.add_argument("--input-len", type=int, default=64)
    parser.add_argument("--output-len", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    use_paper()
    for rows in args.rows:
        core._make_executor = lambda *_, rows=rows: UniProcExecutor(lambda: PaperWorker(rows), threaded=False)
        options = EngineArgs(
            str(CONFIG), load_format="dummy", skip_tokenizer_init=True, device="cpu", max_num_seqs=rows,
            max_model_len=MAX_LEN, enable_step_times=True,
        )  # fmt: skip
        shape = {"num_prompts": rows, "input_len": args.input_len, "output_len": args.output_len, "spread": 0.0}
        found = throughput(options, **shape, seed=0, vocab=(100, VOCAB - 1), warmups=1)
        print(f"{rows} rows:", *figure_lines(found["step_times"]), sep="\n  ")


if __name__ == "__main__":
    main()
