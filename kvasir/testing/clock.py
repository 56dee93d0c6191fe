"""ManualClock: time that passes when a test says so."""


class ManualClock:
    """Call it like `time.time`; `advance` moves it."""

    def __init__(self, now: float = 1_000_000.0):
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        self.now += seconds
        return self.now
