"""On whose account a request runs, and until when."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RequestTerms:
    """What the front knows of a caller that the engine heeds.

    Attributes:
        tenant: whose share it takes, where shares are kept (`--scheduling-policy fair`).
        weight: of that share.
        deadline: `time.time()` at which the request is ended, whatever it has by then; 0.0: never.
    """

    tenant: str = ""
    weight: float = 1.0
    deadline: float = 0.0


NO_TERMS = RequestTerms()
