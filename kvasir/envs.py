"""Every environment variable Kvasir reads, in one table (a test keeps it under 20).

Anything that is not about the machine or about debugging is an option, not a variable.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EnvVar:
    name: str
    default: str
    help: str

    @property
    def value(self) -> str:
        return os.environ.get(self.name, self.default)

    @property
    def is_set(self) -> bool:
        """Also to nothing."""
        return self.name in os.environ

    @property
    def flag(self) -> bool:
        return self.value.lower() not in ("", "0", "false", "no")


LOG_LEVEL = EnvVar("KVASIR_LOG_LEVEL", "INFO", "Log level: DEBUG, INFO, WARNING, ERROR.")
CACHE_DIR = EnvVar("KVASIR_CACHE_DIR", "~/.cache/kvasir", "Where compiled kernels and plans are kept.")
API_KEY = EnvVar("KVASIR_API_KEY", "", "API key of the server when --api-key is not given.")
CLIENT_API_KEY = EnvVar("OPENAI_API_KEY", "", "Key that `kvasir chat --url` and the like present to a server.")
CPU_KV_CACHE_GIB = EnvVar("KVASIR_CPU_KVCACHE_SPACE", "", "GiB of KV cache on CPU when --kv-cache-memory is not given.")
CPU_THREADS = EnvVar("KVASIR_CPU_THREADS", "", "Threads of the CPU worker; default: the cores this process may use.")
NATIVE = EnvVar(
    "KVASIR_NATIVE", "auto", "CPU kernels in C++: auto, 0 (torch's own), or baseline, avx2, avx512, avx512bf16 at most."
)
REQUIRE_NATIVE = EnvVar("KVASIR_REQUIRE_NATIVE", "", "Fail to install, and to start, without the C++ CPU kernels.")
HUB_OFFLINE = EnvVar("HF_HUB_OFFLINE", "", "Never ask the hub for files; use its local cache only.")
VISIBLE_CARDS = EnvVar("CUDA_VISIBLE_DEVICES", "all", "Which cards may be used; empty hides all of them.")
CHECK_MESSAGES = EnvVar("KVASIR_CHECK_MESSAGES", "", "Send in-process messages through the codec (tests do).")
NO_DEPENDENT_LAUNCH = EnvVar(
    "KVASIR_NO_DEPENDENT_LAUNCH", "", "Start each kernel only when the one before it has ended (to find a fault)."
)
CHECK_INTEGRITY = EnvVar("KVASIR_CHECK_INTEGRITY", "", "Audit every KV block after each step (slow; tests do).")

ALL = tuple(v for v in list(globals().values()) if isinstance(v, EnvVar))


def let_waiting_threads_sleep() -> None:
    """OpenMP threads that wait at a barrier sleep, unless the user has said otherwise; before torch is imported.

    Spinning wins a few microseconds on an idle machine. On a busy one it holds the very core that the thread it waits
    for needs: 59 chats over HTTP on two cores beside another job took 73 s spinning and 3 s sleeping.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def compiler_cache(folder: Path) -> Iterator[None]:
    """In here torch's compiler keeps what it makes under `folder`; our own Triton kernels stay where they were."""
    wanted = {
        "TORCHINDUCTOR_CACHE_DIR": str(folder),
        "TRITON_CACHE_DIR": os.environ.get("TRITON_CACHE_DIR") or os.path.expanduser("~/.triton/cache"),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
