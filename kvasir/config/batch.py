"""Stored files and batches of the HTTP server."""

from dataclasses import dataclass

from kvasir.config.option import at_least, option


@dataclass(frozen=True)
class BatchConfig:
    """Stored files and batches of the HTTP server (/v1/files, /v1/batches)."""

    batch_dir: str | None = option(
        None,
        help="Folder for files and batches; it is made if it is not there, and what it holds outlives the server. "
        "Without one, /v1/files and /v1/batches are refused.",
    )
    batch_concurrency: int | None = option(
        None,
        help="Most lines of batches in the engine at once. By default all of max_num_seqs but an eighth, which is "
        "kept free for interactive requests; those in flight lower the number further.",
        check=at_least(1),
    )
    batch_max_file_size: int = option(
        200 * 1024**2, help="Largest file that can be uploaded.", check=at_least(1), unit="bytes"
    )
    batch_max_storage: int = option(
        16 * 1024**3,
        help="Bytes that all files together may have before uploads are refused.",
        check=at_least(1),
        unit="bytes",
    )
    batch_file_ttl: float = option(
        30 * 24 * 3600.0,
        help="Seconds after which a file or a finished batch is deleted, unless it says expires_after itself.",
        check=at_least(60),
        unit="s",
    )
