"""Sends images through the result store, within a byte budget; knows no job and no ledger."""

from collections.abc import Mapping, Set
from typing import Any, Final

import redis

from contract.store import image_key

BUDGET_BYTES: Final = 256 * 2**20


class Uploads:
    """The images of one run that are in the store."""

    def __init__(self, connection: redis.Redis, run: str, budget_bytes: int = BUDGET_BYTES) -> None:
        """Finds the images that an earlier process has left."""
        self._redis = connection
        self._run = run
        self._budget_bytes = budget_bytes
        self._sizes: dict[str, int] = {}
        prefix = image_key(run, "")
        pattern = prefix.replace("[", "\\[") + "*"
        for key in connection.scan_iter(match=pattern, count=10_000):
            length: Any = connection.strlen(key)
            self._sizes[key.decode().removeprefix(prefix)] = int(length)

    def put(self, images: Mapping[str, bytes]) -> bool:
        """Store images (hash → bytes), before the job that needs them is noted. False if they do not fit.

        Images above the whole budget fit if no others are there.
        """
        new = sum(len(content) for sha256, content in images.items() if sha256 not in self._sizes)
        others = self._sizes.keys() - images.keys()
        if new and others and sum(self._sizes.values()) + new > self._budget_bytes:
            return False
        for sha256, content in images.items():
            self._redis.set(image_key(self._run, sha256), content)
            self._sizes[sha256] = len(content)
        return True

    def keep_only(self, needed: Set[str]) -> None:
        """Delete images that no open job needs."""
        gone = self._sizes.keys() - needed
        if gone:
            self._redis.delete(*(image_key(self._run, one) for one in gone))
            for one in gone:
                del self._sizes[one]
