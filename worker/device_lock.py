"""Lets two models compute on one device in turn and not at once; knows neither.

Two that compute at once share the cores and the caches badly (docs/engine.md). The vision model goes first:
the language model is the faster the more rows it has, and each of the threads that encode images then waits
for its answers, so that there is an end to it. The same is true of images that somebody waits for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Final

URGENT, FIRST, LAST = range(3)
RANKS: Final = 3


class DeviceLock:
    """Held by one at a time: of those who wait, first an urgent one, then one by first(), then by last()."""

    def __init__(self) -> None:
        # Guards the two fields below it.
        self._changed = Condition()
        self._taken = False
        self._waiting = [0] * RANKS

    @property
    def first_waiting(self) -> int:
        """So many wait by first(), urgent ones not among them."""
        return self._waiting[FIRST]

    @property
    def urgent_waiting(self) -> int:
        """So many wait by first(urgent=True)."""
        return self._waiting[URGENT]

    @contextmanager
    def first(self, urgent: bool = False) -> Iterator[None]:
        """Hold it, before everyone who waits by last()."""
        with self._held(URGENT if urgent else FIRST):
            yield

    @contextmanager
    def last(self) -> Iterator[None]:
        """Hold it, when nobody waits by first()."""
        with self._held(LAST):
            yield

    @contextmanager
    def _held(self, rank: int) -> Iterator[None]:
        with self._changed:
            self._waiting[rank] += 1
            try:
                self._changed.wait_for(lambda: not (self._taken or any(self._waiting[:rank])))
            finally:
                self._waiting[rank] -= 1
            self._taken = True
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        with self._changed:
            self._taken = False
            self._changed.notify_all()
