"""What computes."""

from dataclasses import dataclass

from kvasir.config.option import AUTO, at_least, option

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class DeviceConfig:
    """What computes."""

    device: str = option(
        AUTO,
        help="auto: cuda if there is a card and this torch can use it, else cpu.",
        choices=DEVICES,
        affects_graph=True,
    )
    cpu_threads: int = option(
        AUTO,
        help="Threads of the CPU worker. auto: KVASIR_CPU_THREADS, else the cores this process may use.",
        check=at_least(1),
    )
