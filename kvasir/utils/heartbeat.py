"""Heartbeat: what an engine core is doing, in memory that outlives it.

The front makes it (a memfd, so there is no path to guard and nothing to clean up), the core writes it, and after a
death the front reads what was going on. Fixed size, plain integers, no prompt text; a write is a few memory stores,
so a step pays two microseconds, and twelve with a thousand rows.

    header   beats, phase, step of the last beat
    2 steps  the rows of a step that was launched and has not landed: slot, tokens computed before, tokens scheduled
    slots    who holds each worker slot: digests of the present and of the previous request id, and since which step

Everything is written in such an order that a death between any two stores leaves a state that reads right.
"""

import enum
import hashlib
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Protocol, Self

_HEADER = struct.Struct("<QIIq")  # beats, phase, number of slots, last step id
_STEP = struct.Struct("<qII")  # step id, rows, columns: the third, tokens scheduled, is left out where each is 1
_SLOT = struct.Struct("<q16s16s")  # since which step, present holder, previous one
_HEADER_BYTES = 64
_NO_STEP = -1
_ROW_BYTES = 3 * 4
_STEPS_IN_FLIGHT = 2
"""A core runs at most one step ahead of the one it waits for."""


class Phase(enum.IntEnum):
    """What a core is at; each has a deadline of its own."""

    START = 0  # the interpreter, imports
    LOAD = 1  # opens the device, reads weights; each piece is a beat
    COMPILE = 2  # first steps: kernels are compiled, memory is measured
    CAPTURE = 3  # warms up what will be replayed
    STEP = 4  # schedules and runs; each launch and each result is a beat
    IDLE = 5  # waits for work, and beats while it waits
    CALL = 6  # a control call, such as one that loads weights


class _SlotRequest(Protocol):
    slot: int
    request_id: str


class Step(Protocol):
    """What a heartbeat notes of a step (a SchedulerOutput has it)."""

    step_id: int
    slots: list[int]
    num_scheduled_tokens: list[int]
    num_computed_tokens: list[int]

    @property
    def new_requests(self) -> Sequence[_SlotRequest]: ...


def digest(request_id: str) -> bytes:
    """16 bytes that stand for a request id of any length."""
    return hashlib.blake2b(request_id.encode(), digest_size=16).digest()


class Heartbeat:
    """One core's record. The core calls `beat`, `launch` and `land`; the front reads the properties.

    Args:
        memory: `size_for(num_slots)` bytes.
    """

    def __init__(self, memory: mmap.mmap, num_slots: int):
        self._memory = memory
        self._num_slots = num_slots
        self._step_bytes = _STEP.size + num_slots * _ROW_BYTES
        self._slots_at = _HEADER_BYTES + _STEPS_IN_FLIGHT * self._step_bytes
        self._beats = 0
        self._phase = Phase.START

    @staticmethod
    def size_for(num_slots: int) -> int:
        return _HEADER_BYTES + _STEPS_IN_FLIGHT * (_STEP.size + num_slots * _ROW_BYTES) + num_slots * _SLOT.size

    @classmethod
    def create(cls, num_slots: int) -> tuple[Self, int]:
        """A fresh record and the file descriptor that a child can `open`; the caller closes it."""
        fd = os.memfd_create("kvasir-heartbeat")
        os.ftruncate(fd, cls.size_for(num_slots))
        record = cls(mmap.mmap(fd, cls.size_for(num_slots)), num_slots)
        record._reset()
        return record, fd

    @classmethod
    def open(cls, fd: int) -> Self:
        """The child's hold on it; closes `fd`."""
        memory = mmap.mmap(fd, os.fstat(fd).st_size)
        os.close(fd)
        _, _, num_slots, _ = _HEADER.unpack_from(memory, 0)
        return cls(memory, num_slots)

    @classmethod
    def private(cls, num_slots: int) -> Self:
        """For a core that nobody watches (in-process engines)."""
        record = cls(mmap.mmap(-1, cls.size_for(num_slots)), num_slots)
        record._reset()
        return record

    def _reset(self) -> None:
        _HEADER.pack_into(self._memory, 0, 0, Phase.START, self._num_slots, _NO_STEP)
        for index in range(_STEPS_IN_FLIGHT):
            _STEP.pack_into(self._memory, self._step_at(index), _NO_STEP, 0, 0)

    def _step_at(self, step_id: int) -> int:
        return _HEADER_BYTES + (step_id % _STEPS_IN_FLIGHT) * self._step_bytes

    # -- written by the core ------------------------------------------------------------------------------------

    def beat(self, phase: Phase | None = None, step_id: int = _NO_STEP) -> None:
        """Something has been done; with `phase`, something else begins."""
        self._beats += 1
        if phase is not None:
            self._phase = phase
        _HEADER.pack_into(self._memory, 0, self._beats, self._phase, self._num_slots, step_id)

    def launch(self, step: Step) -> None:
        """`step` is about to run."""
        for new in step.new_requests:
            self._hand_over(new.slot, digest(new.request_id), step.step_id)
        columns = [step.slots, step.num_computed_tokens]
        rows = len(step.slots)
        if step.num_scheduled_tokens.count(1) != rows:
            columns.append(step.num_scheduled_tokens)
        if rows <= self._num_slots:
            at = self._step_at(step.step_id)
            _STEP.pack_into(self._memory, at, _NO_STEP, 0, 0)
            for i, column in enumerate(columns):
                struct.pack_into(f"<{rows}i", self._memory, at + _STEP.size + 4 * rows * i, *column)
            _STEP.pack_into(self._memory, at, step.step_id, rows, len(columns))
        self.beat(Phase.STEP, step.step_id)

    def land(self, step_id: int) -> None:
        """The step's result is there, or its failure."""
        _STEP.pack_into(self._memory, self._step_at(step_id), _NO_STEP, 0, 0)
        self.beat(Phase.STEP, step_id)

    def _hand_over(self, slot: int, holder: bytes, step_id: int) -> None:
        if slot >= self._num_slots:
            return
        at = self._slots_at + slot * _SLOT.size
        since, present, _ = _SLOT.unpack_from(self._memory, at)
        _SLOT.pack_into(self._memory, at, since, present, present)
        _SLOT.pack_into(self._memory, at, step_id, present, present)
        _SLOT.pack_into(self._memory, at, step_id, holder, present)

    # -- read by the front --------------------------------------------------------------------------------------

    @property
    def beats(self) -> int:
        return _HEADER.unpack_from(self._memory, 0)[0]

    @property
    def phase(self) -> Phase:
        return Phase(_HEADER.unpack_from(self._memory, 0)[1])

    @property
    def step_id(self) -> int:
        """Of the last beat; -1 outside steps."""
        return _HEADER.unpack_from(self._memory, 0)[3]

    def in_flight(self) -> dict[bytes, int]:
        """Digest of each request in a step that has not landed -> tokens it has once those steps have run.

        The token that such a step samples comes after those.
        """
        found: dict[bytes, int] = {}
        for index in range(_STEPS_IN_FLIGHT):
            at = self._step_at(index)
            step_id, rows, num_columns = _STEP.unpack_from(self._memory, at)
            if step_id == _NO_STEP:
                continue
            numbers = struct.unpack_from(f"<{rows * num_columns}i", self._memory, at + _STEP.size)
            slots, computed = numbers[:rows], numbers[rows : 2 * rows]
            scheduled = numbers[2 * rows :] or (1,) * rows
            for slot, before, count in zip(slots, computed, scheduled, strict=True):
                since, present, previous = _SLOT.unpack_from(self._memory, self._slots_at + slot * _SLOT.size)
                holder = present if since <= step_id else previous
                found[holder] = max(before + count, found.get(holder, 0))
        return found

    def close(self) -> None:
        self._memory.close()
