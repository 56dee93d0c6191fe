"""Platforms: the questions the engine asks about the machine it runs on.

*Ring*: all. Nothing -> a `Platform`; `detect()` makes one and the caller passes it on (there is no global one).
Torch is imported inside the functions that need it, so that a front can ask for CPU cores without it.

*Knows nothing about* models, options or what the answers are used for.
"""

from kvasir.platforms.fault import is_device_fault
from kvasir.platforms.platform import Platform, detect

__all__ = ["Platform", "detect", "is_device_fault"]
