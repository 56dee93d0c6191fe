"""`kvasir run-batch -i FILE -o FILE`."""

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    from kvasir.config import EngineArgs
    from kvasir.config.cli import OptionParser

    parser = OptionParser("kvasir run-batch", description="Answer a JSONL file of requests in OpenAI's batch format.")
    parser.add_argument("-i", "--input-file", required=True, metavar="FILE", help="Requests, one JSON object a line.")
    parser.add_argument("-o", "--output-file", required=True, metavar="FILE", help="Answers, in the same order.")
    parser.add_argument("--concurrency", type=int, metavar="N", help="Requests in the engine at once.")
    parser.add_argument("--no-progress", action="store_true", help="No progress bar.")
    EngineArgs.add_cli_args(parser)
    given = parser.parse_args(argv)

    from kvasir.entrypoints.batch.file import run_batch_file

    counts = run_batch_file(
        EngineArgs.from_cli_args(given),
        given.input_file,
        given.output_file,
        concurrency=given.concurrency,
        progress=not given.no_progress,
    )
    print(f"{counts.total} requests: {counts.total - counts.failed} answered, {counts.failed} failed.")
    return 0
