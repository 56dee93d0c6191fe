"""Executors carry steps from the core to the workers and results back.

Ring: core side; imports no torch. A worker is made from a dotted name, so that this package
never imports what it launches. SchedulerOutput -> handle -> ModelRunnerOutput.
Knows nothing about: models, devices, requests.
"""

from kvasir.executor.base import Executor, StepHandle
from kvasir.executor.uniproc import UniProcExecutor

__all__ = ["Executor", "StepHandle", "UniProcExecutor"]
