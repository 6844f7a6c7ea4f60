"""Lets two models compute on one device in turn and not at once; knows neither.

Two that compute at once share the cores and the caches badly (docs/engine.md). The vision model goes first:
the language model is the faster the more rows it has, and each of the threads that encode images then waits
for its answers, so that there is an end to it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class DeviceLock:
    """Held by one at a time; who waits for it by first() gets it before who waits by last()."""

    def __init__(self) -> None:
        # Guards the two fields below it.
        self._changed = Condition()
        self._taken = False
        self._first_waiting = 0

    @property
    def first_waiting(self) -> int:
        """So many wait by first()."""
        return self._first_waiting

    @contextmanager
    def first(self) -> Iterator[None]:
        """Hold it, before everyone who waits by last()."""
        with self._changed:
            self._first_waiting += 1
            self._changed.wait_for(lambda: not self._taken)
            self._first_waiting -= 1
            self._taken = True
        try:
            yield
        finally:
            self._give_back()

    @contextmanager
    def last(self) -> Iterator[None]:
        """Hold it, when nobody waits by first()."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._taken or self._first_waiting))
            self._taken = True
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        with self._changed:
            self._taken = False
            self._changed.notify_all()
