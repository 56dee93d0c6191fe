"""Which errors say that the device is lost, and not just a step. Told by name, so that nobody has to import torch."""

_TYPES = {"AcceleratorError"}
_MARKS = ("CUDA error:", "CUDA driver error:", "HIP error:", "NCCL error", "device-side assert")


def is_device_fault(error: BaseException) -> bool:
    """True for an error after which every further call to the device fails, too. Want of memory is none."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        names = {cls.__name__ for cls in type(cause).__mro__}
        if "OutOfMemoryError" not in names and (names & _TYPES or any(mark in str(cause) for mark in _MARKS)):
            return True
        cause = cause.__cause__
    return False
