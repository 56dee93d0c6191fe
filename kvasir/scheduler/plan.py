"""StepPlan: rows gathered while a step is planned, and what becomes of them: a SchedulerOutput."""

from dataclasses import dataclass

from kvasir.messages import SchedulerOutput, SlotRequest
from kvasir.scheduler.request import Request


class StepPlan:
    """The columns of one step as they grow. Rows are added in the order in which they are placed."""

    __slots__ = ("columns", "preempted", "rows")

    def __init__(self, step_id: int):
        self.rows: list[Request] = []
        self.columns = SchedulerOutput(step_id)
        self.preempted = False  # then nobody is let in: a victim may have to wait for its token, and be overtaken

    @property
    def step_id(self) -> int:
        return self.columns.step_id

    def add_decodes(self, rows: list[Request], num_computed: list[int], grown: list[tuple[Request, int]]) -> None:
        """Rows that compute one token and sample the next; `grown`: those that got a block, in order."""
        count, out = len(rows), self.columns
        new_blocks = [0] * count
        index = 0
        for req, block_id in grown:
            index = rows.index(req, index)
            new_blocks[index] = 1
            out.new_block_ids.append(block_id)
        self.rows += rows
        out.slots += [req.slot for req in rows]
        out.num_scheduled_tokens += [1] * count
        out.num_computed_tokens += num_computed
        out.samples += [True] * count
        out.num_new_blocks += new_blocks

    def add_row(self, req: Request, n: int, samples: bool, new_block_ids: list[int]) -> None:
        out = self.columns
        self.rows.append(req)
        out.slots.append(req.slot)
        out.num_scheduled_tokens.append(n)
        out.num_computed_tokens.append(req.num_computed)
        out.samples.append(samples)
        out.num_new_blocks.append(len(new_block_ids))
        out.new_block_ids += new_block_ids

    def add_placed(self, req: Request, n: int, samples: bool, block_ids: list[int]) -> None:
        """A request that got its slot in this step: sent in full."""
        self.add_row(req, n, samples, [])
        message = req.message
        self.columns.new_requests.append(
            SlotRequest(
                request_id=req.request_id,
                slot=req.slot,
                token_ids=req.tokens.copy(),  # messages own their data
                num_prompt_tokens=req.num_prompt,
                num_computed_tokens=req.num_computed,
                block_ids=block_ids,
                params=message.params,
                seed=message.seed,
                stop_token_ids=message.stop_token_ids,
                eos_token_ids=message.eos_token_ids,
                bad_words_token_ids=message.bad_words_token_ids,
            )
        )


@dataclass(slots=True)
class StepInFlight:
    """What the scheduler remembers of a step: whose row each row is, whoever holds the slot when the result comes."""

    rows: list[Request]
    num_tokens: int
