"""API keys: who they belong to, what they open, how much they may use. Read from flags, the environment and a file."""

import hashlib
import hmac
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from kvasir.errors import ConfigError
from kvasir.logger import log_once

Scope = Literal["inference", "metrics", "admin"]
MAX_FILE_BYTES = 16 << 20
MAX_KEY_CHARS = 512
MIN_KEY_CHARS = 16

Count = Annotated[int, Meta(ge=1, le=10**15)]
Secret = Annotated[str, Meta(min_length=MIN_KEY_CHARS, max_length=MAX_KEY_CHARS)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What one name may do. The secret is not in here, so that it cannot get into a log or a dump.

    Attributes:
        name: in logs, counters and shares; keys of one name share everything.
        scopes: `inference` opens all but admin routes, `metrics` only /metrics, `admin` everything.
        weight: of its share under `--scheduling-policy fair`.
        priority: of its requests; they may ask for a larger number, never for a smaller one.
        isolate_cache: its prompts share no prefixes with those of others.
    """

    name: str
    scopes: tuple[Scope, ...] = ("inference",)
    weight: float = 1.0
    priority: int = 0
    isolate_cache: bool = False
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    max_concurrent: int | None = None

    def opens(self, scope: Scope) -> bool:
        return "admin" in self.scopes or scope in self.scopes or (scope == "metrics" and "inference" in self.scopes)


NOBODY = ApiKey(name="")
"""Whoever comes to a server without keys."""


class _Entry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One entry of the file, as it is written."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")]
    key: Secret | list[Secret] = []
    key_sha256: Digest | list[Digest] = []
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=3)] = msgspec.field(
        default_factory=lambda: ["inference"]
    )
    weight: Annotated[float, Meta(ge=0.01, le=1000)] = 1.0
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    isolate_cache: bool = False
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    tokens_per_day: Count | None = None
    tokens_per_month: Count | None = None
    max_concurrent: Count | None = None

    def digests(self) -> list[bytes]:
        plain = [self.key] if isinstance(self.key, str) else self.key
        hashed = [self.key_sha256] if isinstance(self.key_sha256, str) else self.key_sha256
        return [sha256(k.encode()) for k in plain] + [bytes.fromhex(h) for h in hashed]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: Annotated[list[_Entry], Meta(min_length=1, max_length=100_000)]


def sha256(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


class KeyRing:
    """Finds whose a secret is.

    The table is keyed by an HMAC of the secret's digest under a key of this process: what a look-up's time may tell
    is about a number that nobody outside can choose or guess.
    """

    def __init__(self, keys: Iterable[tuple[ApiKey, Sequence[bytes]]]):
        self._salt = os.urandom(32)
        self._by_digest: dict[bytes, ApiKey] = {}
        self.by_name: dict[str, ApiKey] = {}
        for key, digests in keys:
            if key.name in self.by_name:
                raise ConfigError(f"two API keys are named {key.name!r}: give each a name of its own.")
            if not digests:
                raise ConfigError(f"the API key {key.name!r} has neither key nor key_sha256.")
            self.by_name[key.name] = key
            for digest in digests:
                salted = self._salted(digest)
                if salted in self._by_digest:
                    other = self._by_digest[salted].name
                    raise ConfigError(f"the API keys {other!r} and {key.name!r} have the same secret.")
                self._by_digest[salted] = key

    def __len__(self) -> int:
        return len(self.by_name)

    @property
    def has_admin(self) -> bool:
        return any("admin" in key.scopes for key in self.by_name.values())

    def find(self, secret: bytes) -> ApiKey | None:
        if not secret or len(secret) > 4 * MAX_KEY_CHARS:
            return None
        return self._by_digest.get(self._salted(sha256(secret)))

    def _salted(self, digest: bytes) -> bytes:
        return hmac.digest(self._salt, digest, "sha256")


def load_ring(api_keys: Sequence[str], admin_keys: Sequence[str], path: str | None) -> KeyRing:
    """Keys of flags (named key-1, key-2, admin-1, ...) and those of the file.

    Raises:
        ConfigError: the file cannot be read, or an entry is wrong; a key is empty.
    """
    if not all(secret.strip() for secret in (*api_keys, *admin_keys)):
        raise ConfigError(
            "an API key is empty (--api-key, --admin-api-key or KVASIR_API_KEY): give it a value, or leave it out, "
            "which opens the server to everybody who can reach it."
        )
    keys = [(ApiKey(name=f"key-{i}"), [sha256(secret.encode())]) for i, secret in enumerate(api_keys, 1)]
    keys += [
        (ApiKey(name=f"admin-{i}", scopes=("admin",)), [sha256(secret.encode())])
        for i, secret in enumerate(admin_keys, 1)
    ]
    return KeyRing([*keys, *(_read(path) if path else ())])


def _read(path: str) -> list[tuple[ApiKey, list[bytes]]]:
    import yaml

    try:
        data = Path(path).read_bytes()
        if Path(path).stat().st_mode & 0o077 and b"key:" in data:
            log_once(__name__, logging.WARNING, f"others on this machine can read the secrets in {path}: chmod 600 it")
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"--api-keys-file {path}: has {len(data)} bytes, the bound is {MAX_FILE_BYTES}.")
        file = msgspec.convert(yaml.safe_load(data), _File)
    except OSError as error:
        raise ConfigError(f"--api-keys-file {path}: cannot be read ({error.strerror}).") from None
    except yaml.YAMLError as error:
        # The message of the parser would show a piece of the file, which holds secrets.
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise ConfigError(f"--api-keys-file {path}: is not valid YAML{where}.") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"--api-keys-file {path}: {str(error).replace('`', '')}.") from None
    shared = [name for name in ApiKey.__struct_fields__ if name != "scopes"]
    return [
        (ApiKey(scopes=tuple(entry.scopes), **{name: getattr(entry, name) for name in shared}), entry.digests())
        for entry in file.keys
    ]
