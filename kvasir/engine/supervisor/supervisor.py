"""Supervisor: the hold on the core's process. Starts it, watches it, buries it, starts the next one."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kvasir.engine.client import ProcessClient
from kvasir.engine.supervisor.budget import RestartBudget
from kvasir.engine.supervisor.death import Cause, Death, cause_of
from kvasir.engine.supervisor.incidents import Incident, Incidents
from kvasir.engine.supervisor.quarantine import Ruling
from kvasir.engine.supervisor.watch import POLL_S, Deadlines, Watch
from kvasir.errors import EngineDeadError, KvasirError
from kvasir.logger import get_logger
from kvasir.messages import EngineCoreOutput, Ready

logger = get_logger(__name__)

_STACKS_S = 0.3  # for a stuck core to write where it hangs
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 10.0


@dataclass(frozen=True)
class Recovery:
    """A core that is back, for metrics. `reason` is a `Cause`; `seconds` run from the death's notice to Ready."""

    reason: str
    seconds: float
    num_refused: int


@dataclass
class Supervisor:
    """One core at a time.

    Attributes:
        spawn: starts a core process that waits for its settings; not awaited there.
        settings: (epoch, what the last core found out) -> the frame for a new one. A restarted core is told the
            memory plan of the one before it and does not measure again.
        keep_standby: have the next process waiting, its imports done.
        facts: what every incident file says of the engine.
        client: the present core.
        epoch: of the present core; every message of a core carries its own.
    """

    spawn: Callable[[], ProcessClient]
    settings: Callable[[int, Ready | None], bytes]
    budget: RestartBudget
    deadlines: Deadlines
    incidents: Incidents | None = None
    keep_standby: Callable[[], ProcessClient] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.epoch = -1
        self.ready: Ready | None = None
        self._client: ProcessClient | None = None
        self._standby: ProcessClient | None = None
        self._since = 0.0
        self._stopped = False

    @property
    def client(self) -> ProcessClient:
        assert self._client is not None, "no core was launched"
        return self._client

    # -- start --------------------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Starts a core's process, or takes the one on standby. Returns at once."""
        standby, self._standby = self._standby, None
        self.epoch += 1
        if standby is not None and standby.process.poll() is not None:
            standby.discard()
            standby = None
        self._client = standby or self.spawn()
        self._client.configure(self.settings(self.epoch, self.ready))

    def wait_ready(self) -> Ready:
        """Blocks until the core that was launched is ready.

        Raises:
            ConfigError: the core refused its configuration (the text is the core's).
            EngineDeadError: it died, or made no progress for as long as its phase may take.
        """
        client, watch, last = self.client, Watch(self.deadlines), time.monotonic()
        while (ready := client.poll_ready(POLL_S)) is None:
            if self._stopped:  # whoever waits for us may have gone, so nobody else cleans up
                client.discard()
                raise EngineDeadError("The engine was shut down while its core was starting.")
            now = time.monotonic()
            silent_s = watch.look(client.heartbeat.beats, client.heartbeat.phase, pending=True, elapsed_s=now - last)
            last = now
            if silent_s is not None:
                phase = client.heartbeat.phase.name.lower()
                client.kill()
                raise EngineDeadError(
                    f"The engine core made no progress for {silent_s:.0f} s in {phase}, before it was ready, and was "
                    "killed. If the machine is only slow, raise --engine-load-timeout or --engine-compile-timeout."
                )
        self.ready, self._since = ready, time.monotonic()
        return ready

    # -- watch --------------------------------------------------------------------------------------------------

    async def run(self, take: Callable[[list[EngineCoreOutput]], None], pending: Callable[[], bool]) -> Death:
        """Hands what the core says to `take` until it is gone, or silent while something is `pending`."""
        if self.keep_standby is not None and self._standby is None:
            self._standby = self.keep_standby()
        reading = asyncio.create_task(self._receive(take), name="kvasir-core-outputs")
        try:
            silent_s = await self._until_silent(reading, pending)
            cause = None
            if silent_s is not None:
                cause = Cause.STOPPED if self.client.is_stopped() else Cause.STUCK
            elif reading.done() and reading.exception() is not None:
                logger.error("reading from the engine core failed", exc_info=reading.exception())
                cause = Cause.UNREADABLE
        finally:
            reading.cancel()
        death = await asyncio.to_thread(self._bury, cause, silent_s)
        self.client.discard()
        return death

    async def _receive(self, take: Callable[[list[EngineCoreOutput]], None]) -> None:
        while (steps := await self.client.receive()) is not None:
            take(steps)

    async def _until_silent(self, reading: "asyncio.Task[None]", pending: Callable[[], bool]) -> float | None:
        watch, last, heartbeat = Watch(self.deadlines), time.monotonic(), self.client.heartbeat
        while True:
            had_died = self.client.has_died()  # what it had said by then has a whole look's time to be read
            await asyncio.wait((reading,), timeout=POLL_S)
            if reading.done() or had_died:
                return None
            now = time.monotonic()
            silent_s = watch.look(heartbeat.beats, heartbeat.phase, pending=pending(), elapsed_s=now - last)
            last = now
            if silent_s is not None:
                return silent_s

    def _bury(self, cause: Cause | None, silent_s: float | None) -> Death:
        """Makes sure that it is dead, then reads what it was doing."""
        client = self.client
        if cause is Cause.STUCK:
            client.dump_stacks()
            time.sleep(_STACKS_S)
        if cause is not None:
            client.kill()
        exit_code = client.wait_exit()
        heartbeat = client.heartbeat
        return Death(
            cause or cause_of(exit_code),
            exit_code,
            heartbeat.phase,
            heartbeat.step_id,
            heartbeat.in_flight(),
            silent_s,
        )

    # -- restart ------------------------------------------------------------------------------------------------

    def record(
        self, death: Death, ruling: Ruling, in_flight: Mapping[str, int], num_live: int, num_suspects: int
    ) -> None:
        """Writes the incident file and says where it is."""
        if self.incidents is None:
            return
        incident = Incident(
            death,
            self.client.process.pid,
            self.epoch,
            time.monotonic() - self._since,
            in_flight,
            num_live,
            num_suspects,
            ruling.refused,
            self.facts,
        )
        path = self.incidents.write(incident)
        if path is not None:
            logger.warning("%s Incident file: %s", death, path)

    async def restart(self, ruling: Ruling) -> str | None:
        """Starts the next core; when it returns None, that one is ready. Else: why there is none.

        A start that fails is tried again, after a pause, as often as the bound allows.
        """
        counts, pause_s, why = ruling.counts, _FIRST_PAUSE_S, ""
        while not self._stopped:
            if counts and not self.budget.take():
                bound = self.budget.max_restarts
                done = f"It was started again {bound} times in ten minutes already" if bound else "It is not restarted"
                return f"{why} {done} (--max-core-restarts {bound}).".lstrip()
            try:
                await asyncio.to_thread(self._start)
                break
            except KvasirError as error:
                counts, why = True, f"Starting it again failed: {error.message}"
                logger.error("%s", why)
                self.client.discard()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)
        if self._stopped:
            self.client.kill()
            return "The engine was shut down."
        if ruling.refused:
            self.budget.refund()
        return None

    def _start(self) -> None:
        self.launch()
        self.wait_ready()

    def close(self, timeout_s: float = 10.0) -> None:
        """Ends the core, also one that is just being started. Idempotent."""
        first, self._stopped = not self._stopped, True
        if first:
            if self._standby is not None:
                self._standby.discard()
            self.client.close(timeout_s)
