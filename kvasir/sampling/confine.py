"""Runs logits processors so that one that raises costs the requests it raises for, and nobody else."""

from collections.abc import Sequence

import torch

from kvasir.logger import get_logger
from kvasir.platforms import is_device_fault
from kvasir.sampling.processor import LogitsProcessor
from kvasir.sampling.rows import SampleRows

logger = get_logger(__name__)


def process(
    processors: Sequence[LogitsProcessor], logits: torch.Tensor, rows: SampleRows
) -> tuple[torch.Tensor, dict[int, str]]:
    """logits [R, V] of any float type, never changed -> processed float32 [R, V], and row -> why it failed.

    All rows go together; only when that raises is each taken alone, to see whose fault it is. A row that failed has
    its raw logits.
    """
    processed = logits.to(torch.float32, copy=True)
    try:
        for processor in processors:
            processed = processor.apply(processed, rows)
    except Exception as error:
        if is_device_fault(error):
            raise
        logger.exception("a logits processor failed; the step's rows are processed one by one")
    else:
        return processed, {}
    parts, errors = [], {}
    for row in range(len(rows.host_slots)):
        raw = logits[row : row + 1]
        part, error_text = _process_one(processors, raw, rows.only(row))
        parts.append(raw.float() if part is None else part)
        if error_text is not None:
            errors[row] = error_text
    return torch.cat(parts), errors


def _process_one(
    processors: Sequence[LogitsProcessor], raw: torch.Tensor, row: SampleRows
) -> tuple[torch.Tensor | None, str | None]:
    logits = raw.to(torch.float32, copy=True)
    for processor in processors:
        if row.host_slots[0] not in processor.slots:
            continue
        try:
            logits = processor.apply(logits, row)
        except Exception as error:
            if is_device_fault(error):
                raise
            return None, failure(processor, error)
    return logits, None


def after_sample(processors: Sequence[LogitsProcessor], rows: SampleRows, token_ids: torch.Tensor) -> dict[int, str]:
    """Tells each processor what was sampled; one that raises costs its own requests: row -> why."""
    errors: dict[int, str] = {}
    for processor in processors:
        try:
            processor.after_sample(rows, token_ids)
        except Exception as error:
            if is_device_fault(error):
                raise
            logger.exception("a logits processor could not take in what was sampled")
            errors |= {
                row: failure(processor, error) for row, slot in enumerate(rows.host_slots) if slot in processor.slots
            }
    return errors


def failure(processor: LogitsProcessor, error: Exception) -> str:
    return f"The logits processor {type(processor).__name__} failed: {type(error).__name__}: {error}"
