"""Keeps a copy of a run folder from driving the same run, by a lease in the store; knows no jobs."""

import json
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import redis

from contract.store import lease_key
from producer.database import LedgerError
from producer.ledger import LEDGER
from producer.sources import shown

LEASE_S: Final = 30
"""Seconds until a lease ends that is not renewed, because its process was killed."""
RENEW_EVERY_S: Final = 5.0


class Lease:
    """The lease of one folder, wherever it is moved; its sending and its collecting process share it."""

    def __init__(self, connection: redis.Redis, run: str, folder: Path) -> None:
        self._redis = connection
        self._key = lease_key(run)
        self._folder = folder
        status = (folder / LEDGER).stat()
        self._holder = f"{socket.gethostname()}:{status.st_dev}:{status.st_ino}"
        self._renewed_at: float | None = None

    def hold(self) -> None:
        """Take or renew the lease, at most once in RENEW_EVERY_S. Raises LedgerError if a copy has it."""
        now = time.monotonic()
        if self._renewed_at is not None and now - self._renewed_at < RENEW_EVERY_S:
            return
        lease = json.dumps([self._holder, shown(self._folder.absolute())])
        if not self._redis.set(self._key, lease, ex=LEASE_S, nx=True):
            found: Any = self._redis.get(self._key)
            holder, place = json.loads(found) if found else (self._holder, "")
            if holder != self._holder:
                raise LedgerError(
                    f"{shown(self._folder)} and {place} (on {holder.partition(':')[0]}) are copies of one "
                    "run, and a process is at work on the other one. End that first; if it was killed, wait "
                    f"{LEASE_S} s."
                )
            self._redis.expire(self._key, LEASE_S)
        self._renewed_at = now

    def end(self) -> None:
        """Give the lease up. Another process of the same folder takes it again."""
        with suppress(redis.RedisError):
            found: Any = self._redis.get(self._key)
            if found and json.loads(found)[0] == self._holder:
                self._redis.delete(self._key)
