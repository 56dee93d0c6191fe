"""The gate: keys and their accounts, reloaded while requests run, saved while they run."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from kvasir.entrypoints.http.guard.account import Account
from kvasir.entrypoints.http.guard.keys import NOBODY, ApiKey, KeyRing, load_ring
from kvasir.entrypoints.http.guard.store import UsageStore
from kvasir.errors import ConfigError
from kvasir.logger import get_logger

logger = get_logger(__name__)

SAVE_EVERY_S = 0.2


@dataclass(frozen=True)
class GateSettings:
    """Where keys come from and where counters go; secrets are not shown when it is printed."""

    ring: Callable[[], KeyRing]
    usage_db: str | None = None


def gate_settings(
    api_keys: tuple[str, ...], admin_keys: tuple[str, ...], keys_file: str | None, usage_db: str | None
) -> GateSettings:
    if usage_db is None and keys_file is not None:
        usage_db = keys_file + ".usage.db"
    return GateSettings(lambda: load_ring(api_keys, admin_keys, keys_file), usage_db)


class Gate:
    """Raises ConfigError if keys or counters cannot be read.

    Attributes:
        ring: the keys of now; empty: everybody may in, but not to admin routes.
    """

    def __init__(self, settings: GateSettings, clock: Callable[[], float] = time.time):
        self._settings = settings
        self._clock = clock
        self.ring = settings.ring()
        self._store = UsageStore(settings.usage_db) if settings.usage_db else None
        self._accounts: dict[str, Account] = {}
        self.nobody = self._account(NOBODY)
        for key in self.ring.by_name.values():
            self._account(key)

    @property
    def is_open(self) -> bool:
        return not self.ring

    def account_of(self, secret: bytes) -> Account | None:
        key = self.ring.find(secret)
        return None if key is None else self._accounts[key.name]

    def account_named(self, name: str) -> Account | None:
        """Of a key that is still there; the empty name is everybody's."""
        return self.nobody if not name else self._accounts.get(name) if name in self.ring.by_name else None

    def reload(self) -> bool:
        """Reads the keys again; what is wrong with them is logged, and the old ones stay."""
        try:
            ring = self._settings.ring()
            if self.ring and not ring:
                raise ConfigError("no key is left, which would open the server to everybody")
        except ConfigError as error:
            logger.error("API keys are not reloaded: %s", error.message)
            return False
        self.ring = ring
        for key in ring.by_name.values():
            self._account(key).set_key(key)
        logger.info("API keys reloaded: %d", len(ring))
        return True

    def reports(self) -> list[dict[str, object]]:
        return [account.report() for account in self._accounts.values() if account.key is not NOBODY]

    def _account(self, key: ApiKey) -> Account:
        account = self._accounts.get(key.name)
        if account is None:
            account = self._accounts[key.name] = Account(key, self._clock)
            if self._store is not None:
                self._store.load(account, self._clock())
        return account

    async def run(self) -> None:
        """Saves until cancelled."""
        while self._store is not None:
            await asyncio.sleep(SAVE_EVERY_S)
            await self.save()

    async def save(self) -> None:
        if self._store is None:
            return
        taken = {name: account.take_unsaved() for name, account in self._accounts.items() if account.unsaved}
        if not taken:
            return
        usage = [
            (name, day, *(getattr(counts, field) for field in counts.__struct_fields__))
            for name, days in taken.items()
            for day, counts in days.items()
        ]
        buckets = [
            (name, kind, *bucket.state())
            for name in taken
            for kind, bucket in (("requests", self._accounts[name].requests), ("tokens", self._accounts[name].tokens))
            if bucket.per_minute is not None
        ]
        if not await asyncio.to_thread(self._store.save, usage, buckets):
            for name, days in taken.items():
                self._accounts[name].give_back(days)

    async def close(self) -> None:
        await self.save()
        if self._store is not None:
            self._store.close()
