"""Keeps an engine core alive: notices a death or a hang, says what it was, and starts the core again.

*Ring*: front; imports no torch.

`Heartbeat` (shared memory) -> `Watch` (deadlines) -> `Death` (what happened) -> `Quarantine` (who is under
suspicion) -> `Supervisor` (kill, record, restart). The decisions are pure and in files of their own; only
`Supervisor` has processes.

*Knows nothing about* texts, sockets or what a request asks for: requests are ids and numbers of tokens here.
"""
