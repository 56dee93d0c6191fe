"""Microseconds of CPU time per token of the text path: ways to detokenize, and the whole output processor.

    python benchmarks/detokenize.py [--tokenizer FOLDER] [--streams 256] [--tokens 400]

Every stream gets one token a step, as in decoding. Ways that are compared:
  pieces      what Kvasir does: look the token's bytes or letters up, keep UTF-8 state
  stream      the tokenizers library's own DecodeStream
  window      decode the last tokens twice and take the difference (Kvasir's answer to unknown decoders)
"""

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

from kvasir.engine.input import InputProcessor
from kvasir.engine.output import OutputProcessor
from kvasir.messages import EngineCoreOutput, RequestOutputKind, SamplingParams, TokenLogprobs
from kvasir.tokenizer import HfTokenizer, IncrementalDetokenizer, get_tokenizer
from kvasir.tokenizer.detokenize import _WindowStream

BUNDLED = Path(__file__).parent.parent / "kvasir" / "assets" / "kvasir-demo"
Push = Callable[[int], object]


def pieces(tokenizer: HfTokenizer) -> Push:
    detokenizer = IncrementalDetokenizer(tokenizer)
    return lambda token_id: detokenizer.push((token_id,))


def stream(tokenizer: HfTokenizer) -> Push:
    from tokenizers.decoders import DecodeStream

    decoder = DecodeStream(skip_special_tokens=True)
    return lambda token_id: decoder.step(tokenizer.backend, token_id)


def window(tokenizer: HfTokenizer) -> Push:
    decoder = _WindowStream(tokenizer.pieces, frozenset({-1}), True, ())
    return lambda token_id: decoder.push((token_id,))


def time_detokenizers(tokenizer: HfTokenizer, ids: list[int], num_streams: int) -> None:
    for make in (pieces, stream, window):
        pushes = [make(tokenizer) for _ in range(num_streams)]
        start = time.process_time()
        for token_id in ids:
            for push in pushes:
                push(token_id)
        report(f"detokenizer, {make.__name__}", time.process_time() - start, len(ids) * num_streams)


def time_processor(tokenizer: HfTokenizer, ids: list[int], num_streams: int, name: str, **options: object) -> None:
    inputs = InputProcessor(tokenizer, max_model_len=1 << 20, vocab_size=len(tokenizer))
    outputs = OutputProcessor(tokenizer)
    names = [f"r{i}" for i in range(num_streams)]
    for request_id in names:
        request = inputs.process(request_id, [1, 2, 3], SamplingParams(max_tokens=None, **options))
        outputs.add_request(request, [request])
    with_logprobs = options.get("logprobs") is not None
    steps = []
    for i, token_id in enumerate(ids):
        said = EngineCoreOutput(1, i, float(i), names, [i] * num_streams, [1] * num_streams, [token_id] * num_streams)
        if with_logprobs:
            entry = TokenLogprobs([token_id, 1, 2, 3, 4, 5], [-1.0] * 6, 1)
            said.logprobs = {row: [entry] for row in range(num_streams)}
        steps.append(said)
    start = time.process_time()
    for said in steps:
        outputs.process(said).read()
    report(f"output processor, {name}", time.process_time() - start, len(ids) * num_streams)


def report(name: str, seconds: float, num_tokens: int) -> None:
    print(f"{name:45} {seconds / num_tokens * 1e6:7.2f} us/token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default=str(BUNDLED))
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=400)
    args = parser.parse_args()
    tokenizer = get_tokenizer(args.tokenizer)
    text = "The answer is 42, as you can see: größer, 你好 👍. "
    ids = (tokenizer.encode(text, add_special_tokens=False) * args.tokens)[: args.tokens]
    random.Random(0).shuffle(ids)
    print(f"{args.streams} streams, {args.tokens} tokens each, one token a step; {args.tokenizer}")
    time_detokenizers(tokenizer, ids, args.streams)
    run = {"tokenizer": tokenizer, "ids": ids, "num_streams": args.streams}
    time_processor(**run, name="deltas", output_kind=RequestOutputKind.DELTA)
    time_processor(**run, name="deltas, 2 stop strings", output_kind=RequestOutputKind.DELTA, stop=["</s>", "User:"])
    time_processor(**run, name="deltas, 5 logprobs", output_kind=RequestOutputKind.DELTA, logprobs=5)
    time_processor(**run, name="all so far", output_kind=RequestOutputKind.CUMULATIVE)
    time_processor(**run, name="only the final output", output_kind=RequestOutputKind.FINAL_ONLY)


if __name__ == "__main__":
    main()
