"""What the rules may know of this machine, gathered without importing torch."""

from dataclasses import dataclass

from kvasir.config import EngineArgs
from kvasir.errors import ConfigError
from kvasir.platforms.cpu import cpu_cores, cpu_flags, host_memory
from kvasir.utils.cards import first_card, usable_cards, why_no_cuda

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True)
class Facts:
    """Facts about one machine; tests write them by hand.

    Attributes:
        device: "cpu" or "cuda", the one that will be used.
        why_device: the reason, for the log.
        memory_bytes: of the card on cuda (0 when the driver did not say), of the host or its container on cpu.
        cpu_cores: cores this process may use.
        cpu_flags: instruction sets by the kernel's names.
        capability: (major, minor) of the card; (0, 0) elsewhere, or when the driver did not say.
        num_cards: cards this process may use; at least 1 on cuda.
    """

    device: str
    why_device: str
    memory_bytes: int
    cpu_cores: int
    cpu_flags: frozenset[str] = frozenset()
    capability: tuple[int, int] = (0, 0)
    num_cards: int = 0

    @property
    def is_large_card(self) -> bool:
        return self.device == "cuda" and self.memory_bytes >= 70 * 10**9

    @property
    def fast_bfloat16(self) -> bool:
        if self.device == "cuda":
            return self.capability == (0, 0) or self.capability >= (8, 0)
        return bool(self.cpu_flags & _BFLOAT16_FLAGS)


def gather_facts(args: EngineArgs) -> Facts:
    """Looks at the machine; `args.device` settles what is looked for.

    Raises:
        ConfigError: cuda is asked for and cannot be used.
    """
    missing = "" if args.device == "cpu" else why_no_cuda()
    if args.device == "cuda" and missing:
        raise ConfigError(f"device is cuda, but {missing}; use --device cpu or leave it out.", param="device")
    if args.device == "cpu" or missing:
        why = missing or "asked for"
        _, total = host_memory()
        return Facts("cpu", why, total, cpu_cores(), cpu_flags())
    card = first_card()
    why = "asked for" if args.device == "cuda" else "there is a card and this torch can use it"
    memory_bytes, capability = (card.memory_bytes, card.capability) if card else (0, (0, 0))
    return Facts("cuda", why, memory_bytes, cpu_cores(), cpu_flags(), capability, len(usable_cards()))
