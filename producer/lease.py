"""Which run folder drives a run, noted in the store, so that a copy of it does not; knows no jobs."""

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
"""A lease that nobody renews ends after so long: whoever held it was killed."""
RENEW_EVERY_S: Final = 5.0


class Lease:
    """Of one folder: processes that send and that collect for it share it, wherever it is moved."""

    def __init__(self, connection: redis.Redis, run: str, folder: Path) -> None:
        self._redis = connection
        self._key = lease_key(run)
        self._folder = folder
        status = (folder / LEDGER).stat()
        self._holder = f"{socket.gethostname()}:{status.st_dev}:{status.st_ino}"
        self._renewed_at: float | None = None

    def hold(self) -> None:
        """Take the lease, or keep it, once in RENEW_EVERY_S. Raises LedgerError where another has it."""
        now = time.monotonic()
        if self._renewed_at is not None and now - self._renewed_at < RENEW_EVERY_S:
            return
        told = json.dumps([self._holder, shown(self._folder.absolute())])
        if not self._redis.set(self._key, told, ex=LEASE_S, nx=True):
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
        """Others need not wait. A process that still works for the folder takes the lease again."""
        with suppress(redis.RedisError):
            found: Any = self._redis.get(self._key)
            if found and json.loads(found)[0] == self._holder:
                self._redis.delete(self._key)
