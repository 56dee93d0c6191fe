"""n answers to one prompt: one request becomes n in the core."""

import msgspec

from kvasir.messages import EngineCoreRequest


def child_id(index: int, request_id: str) -> str:
    return f"{index}_{request_id}"


def fan_out(request: EngineCoreRequest) -> list[EngineCoreRequest]:
    """The requests to send to the core: the request itself, or n children with seeds seed, seed + 1, ..."""
    n = request.params.n
    if n == 1:
        return [request]
    params = msgspec.structs.replace(request.params, n=1)
    return [
        msgspec.structs.replace(
            request, request_id=child_id(i, request.request_id), params=params, seed=(request.seed + i) % 2**64
        )
        for i in range(n)
    ]
