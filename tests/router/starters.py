"""Engines out of thin air, for the router: what they need, how long they take, and how they fail."""

import threading
from dataclasses import dataclass, field

from kvasir.entrypoints.router.catalog import ModelSpec
from kvasir.entrypoints.router.starter import Plan
from kvasir.errors import ConfigError
from tests.http.fake_engine import FakeEngine, Script


@dataclass
class FakeStarter:
    """Attributes:
    needs: bytes by model; 10 if not said.
    gates: a model's start waits for its event.
    broken: models that cannot be started, and why.
    started: every engine ever started, by model, in order.
    """

    needs: dict[str, int] = field(default_factory=dict)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    started: dict[str, list[FakeEngine]] = field(default_factory=dict)
    device_bytes: int = 0

    def plan(self, spec: ModelSpec) -> Plan:
        return Plan(self.needs.get(spec.name, 10), self.device_bytes, spec)

    def start(self, plan: Plan) -> FakeEngine:
        name = plan.resolved.name
        if name in self.gates:
            assert self.gates[name].wait(30)
        if name in self.broken:
            raise ConfigError(self.broken[name])
        engine = FakeEngine(Script(text=f"I am {name}."), served_model_name=(name, *plan.resolved.aliases))
        self.started.setdefault(name, []).append(engine)
        return engine

    def engine(self, name: str) -> FakeEngine:
        return self.started[name][-1]
