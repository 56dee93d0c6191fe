"""Every error Kvasir raises on purpose, as one tree. The branch says who is to blame.

    KvasirError
    ├── UserError            the request is wrong; the caller can mend it       (HTTP 400)
    │   ├── PromptTooLongError
    │   ├── NotFoundError        unknown model or adapter                       (HTTP 404)
    │   └── UnauthorizedError                                                   (HTTP 401)
    ├── ConfigError          the engine was started with options that cannot work
    ├── CapacityError        nothing is wrong, there is no room now; try later  (HTTP 503)
    │   ├── QueueFullError                                                      (HTTP 429)
    │   └── DeadlineError        the caller's own time is up                    (HTTP 504)
    └── EngineError          our fault or the machine's                         (HTTP 500)
        ├── EngineDeadError      the core or a worker is gone                   (HTTP 503)
        │   └── EngineRestartingError    it is being started again
        ├── DeviceFaultError     the device can do nothing any more; a new process has to open it
        └── RequestFailedError   one request failed inside the engine, the others go on

A message names the value, the bound, and what to do about it.
"""


class KvasirError(Exception):
    """Base of every deliberate error.

    Attributes:
        status: HTTP status the server answers with.
        kind: OpenAI-style `type` of the error body.
        param: name of the request field at fault, if one is.
    """

    status = 500
    kind = "internal_error"

    def __init__(self, message: str, *, param: str | None = None):
        super().__init__(message)
        self.message = message
        self.param = param


class UserError(KvasirError, ValueError):
    status = 400
    kind = "invalid_request_error"


class PromptTooLongError(UserError):
    pass


class NotFoundError(UserError):
    status = 404
    kind = "not_found_error"


class UnauthorizedError(UserError):
    status = 401
    kind = "authentication_error"


class ConfigError(KvasirError, ValueError):
    kind = "config_error"


class CapacityError(KvasirError):
    status = 503
    kind = "overloaded_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float = 1.0):
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class QueueFullError(CapacityError):
    status = 429
    kind = "rate_limit_error"


class DeadlineError(CapacityError):
    status = 504
    kind = "deadline_exceeded"


class EngineError(KvasirError, RuntimeError):
    pass


class EngineDeadError(EngineError):
    status = 503
    kind = "engine_dead"


class EngineRestartingError(EngineDeadError):
    retry_after_s = 2.0


class DeviceFaultError(EngineError):
    pass


class RequestFailedError(EngineError):
    """Sending the same request again would most likely fail again."""
