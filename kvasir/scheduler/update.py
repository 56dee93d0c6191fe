"""A step's result -> requests and EngineCoreOutput: tokens appended, stop rules applied, logprobs passed on."""

from collections.abc import Callable, Sequence

from kvasir.messages import (
    EngineCoreOutput,
    Finished,
    FinishReason,
    ModelRunnerOutput,
    SchedulerOutput,
    TokenLogprobs,
)
from kvasir.scheduler.request import Request, RequestState


class Outputs:
    """One EngineCoreOutput for each front process that has something to hear."""

    def __init__(self, epoch: int, step_id: int, now: float):
        self.by_client: dict[int, EngineCoreOutput] = {}
        self._head = (epoch, step_id, now)

    def of(self, client_index: int) -> EngineCoreOutput:
        out = self.by_client.get(client_index)
        if out is None:
            out = self.by_client[client_index] = EngineCoreOutput(*self._head, client_index=client_index)
        return out

    def add(self, req: Request, token_ids: Sequence[int]) -> tuple[EngineCoreOutput, int]:
        """A row whose tokens are the request's newest; returns where it went."""
        out = self.of(req.client_index)
        out.request_ids.append(req.request_id)
        out.first_index.append(req.num_output - len(token_ids))
        out.num_new.append(len(token_ids))
        out.token_ids += token_ids
        return out, len(out.request_ids) - 1


class ResultReader:
    """Reads one step's result into the requests that were its rows.

    Args:
        finish: takes an ended request out of the scheduler.
    """

    def __init__(self, finish: Callable[[Request, FinishReason], None]):
        self._finish = finish

    def read(self, rows: list[Request], step: SchedulerOutput, result: ModelRunnerOutput, outputs: Outputs) -> None:
        """`rows` are those of `step`; a row whose request has ended since, or was thrown out, is ignored."""
        special = {*result.errors, *result.logprobs, *result.prompt_logprobs}
        token_ids = result.token_ids
        indices: list[int] = []  # of the plain rows since `start`
        at = start = client = 0
        for row, count in enumerate(result.num_sampled):
            req = rows[row]
            length = len(req.tokens)
            if length < req.plain_until and count == 1 and not (special and row in special):
                # The long straight: one more token of a running request, most rows of most steps.
                token = token_ids[at]
                if token not in req.stop_ids:
                    if req.client_index != client:
                        self._flush(rows[start:row], indices, token_ids[at - len(indices) : at], outputs)
                        client, start, indices = req.client_index, row, []
                    req.tokens.append(token)
                    indices.append(length - req.num_prompt)
                    at += 1
                    continue
            self._flush(rows[start:row], indices, token_ids[at - len(indices) : at], outputs)
            start, indices = row + 1, []
            self._read_row(req, row, token_ids[at : at + count], step, result, outputs)
            at += count
        self._flush(rows[start:], indices, token_ids[at - len(indices) : at], outputs)

    @staticmethod
    def _flush(rows: list[Request], indices: list[int], token_ids: list[int], outputs: Outputs) -> None:
        """Plain rows of one client, with a token each."""
        if not rows:
            return
        out = outputs.of(rows[0].client_index)
        out.request_ids += [req.request_id for req in rows]
        out.first_index += indices
        out.num_new += [1] * len(rows)
        out.token_ids += token_ids

    def _read_row(
        self,
        req: Request,
        row: int,
        sampled: list[int],
        step: SchedulerOutput,
        result: ModelRunnerOutput,
        outputs: Outputs,
    ) -> None:
        if req.state is RequestState.FINISHED:
            return
        error = result.errors.get(row)
        if error is None and step.samples[row] and not sampled:
            error = f"step {step.step_id} sampled no token for request {req.request_id}."
        if error is not None:
            self.end(req, outputs, FinishReason.ERROR, error=error)
            return
        if row in result.prompt_logprobs:
            self._gather(req, step.num_computed_tokens[row], result.prompt_logprobs[row])
        if sampled:
            self._append(req, sampled, result.logprobs.get(row), outputs)

    def _append(self, req: Request, sampled: list[int], logprobs: list[TokenLogprobs] | None, outputs: Outputs) -> None:
        accepted, reason = 0, None
        for token in sampled:
            req.tokens.append(token)
            accepted += 1
            reason = req.verdict(token)
            if reason is not None:
                break
        if req.state is RequestState.RUNNING:
            req.num_computed += len(sampled) - 1  # all but the newest of several tokens were computed in the step
        else:
            req.todo += len(sampled) - 1
        out, out_row = outputs.add(req, sampled[:accepted])
        if logprobs is not None:
            out.logprobs[out_row] = logprobs[:accepted]
        if req.num_output == accepted:  # its first
            req.note_plain()
            self._attach_prompt(req, out, out_row)
        if reason is not None:
            stop_id = sampled[accepted - 1] if reason is FinishReason.STOP else None
            error = None
            if reason is FinishReason.ERROR:
                error = (
                    f"the KV cache holds {req.max_total - 1} tokens and request {req.request_id} needs more: "
                    f"{req.num_prompt} of prompt and {req.num_output} of output so far. "
                    "Give the cache more memory or lower max_tokens."
                )
            out.finished.append(Finished(out_row, reason, stop_id, error))
            self._finish(req, reason)

    def end(self, req: Request, outputs: Outputs, reason: FinishReason, *, error: str | None = None) -> None:
        """Ends a request without a token."""
        out, out_row = outputs.add(req, [])
        out.finished.append(Finished(out_row, reason, None, error))
        self._finish(req, reason)

    @staticmethod
    def _gather(req: Request, num_computed: int, entries: list[TokenLogprobs]) -> None:
        """Entries of prompt positions `num_computed + 1` on; what a preempted request computes again is known."""
        known = req.prompt_logprobs
        if known is None:
            return
        fresh = entries[max(0, len(known) - num_computed) :]
        known += fresh[: req.num_prompt - 1 - len(known)]

    @staticmethod
    def _attach_prompt(req: Request, out: EngineCoreOutput, out_row: int) -> None:
        if req.num_cached:
            out.num_cached_tokens[out_row] = req.num_cached
        if req.prompt_logprobs is not None:
            out.prompt_logprobs[out_row] = req.prompt_logprobs
            req.prompt_logprobs = None  # from here on it may read the prefix cache
