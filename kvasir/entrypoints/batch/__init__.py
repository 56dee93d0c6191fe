"""OpenAI's batch format: one request a line in, one answer a line out.

Ring: front. Input -> output: the bytes of a line -> a `BatchAnswer`. `kvasir run-batch` reads a file with it, and the
server's `/v1/batches` (`kvasir.entrypoints.http.batches`) works on stored files with it.

Knows nothing about: where lines come from, where answers go, HTTP connections.
"""

from kvasir.entrypoints.batch.answerer import LineAnswerer, OneModel, ServedModels
from kvasir.entrypoints.batch.lines import BatchAnswer, BatchLine, BatchResponse

__all__ = ["BatchAnswer", "BatchLine", "BatchResponse", "LineAnswerer", "OneModel", "ServedModels"]
