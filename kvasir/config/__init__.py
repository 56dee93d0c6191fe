"""Configuration: what the user wrote, declared once, checked, and what it resolves to, frozen.

*Ring*: all. Importing it loads neither torch nor yaml.

keywords, flags or YAML -> `EngineArgs`, `ServerArgs` (may say `auto`) -> rules in `kvasir.assembly`
-> `KvasirConfig` (says everything, never changes).

*Knows nothing about* devices, requests or how any option is used.
"""

from kvasir.config.attention import AttentionConfig
from kvasir.config.cache import CacheConfig
from kvasir.config.compilation import CompilationConfig
from kvasir.config.device import DeviceConfig
from kvasir.config.kvasir import KvasirConfig
from kvasir.config.load import LoadConfig
from kvasir.config.model import DEMO_MODEL, ModelConfig
from kvasir.config.observability import ObservabilityConfig
from kvasir.config.option import AUTO
from kvasir.config.parallel import ParallelConfig
from kvasir.config.scheduler import SchedulerConfig
from kvasir.config.server import ServerConfig
from kvasir.config.structured import StructuredConfig
from kvasir.config.supervision import SupervisionConfig
from kvasir.config.user import AsyncEngineArgs, EngineArgs, ServerArgs

__all__ = [
    "AUTO",
    "DEMO_MODEL",
    "AsyncEngineArgs",
    "AttentionConfig",
    "CacheConfig",
    "CompilationConfig",
    "DeviceConfig",
    "EngineArgs",
    "KvasirConfig",
    "LoadConfig",
    "ModelConfig",
    "ObservabilityConfig",
    "ParallelConfig",
    "SchedulerConfig",
    "ServerArgs",
    "ServerConfig",
    "StructuredConfig",
    "SupervisionConfig",
]
