"""Lets two models compute on one device in turn and not at once; knows neither.

Two that compute at once share the cores and the caches badly (docs/engine.md). The vision model goes first:
the language model is the faster the more rows it has, and each of the threads that encode images then waits
for its answers, so that there is an end to it. What somebody waits for goes before both.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock

URGENT, FIRST, LAST = range(3)
Rank = Callable[[], int]


def _never() -> bool:
    return False


class _Waiter:
    """Who wants the device; `rank` may change while it waits."""

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self.granted = Event()


class DeviceLock:
    """Held by one at a time: of those who wait, first an urgent one, then one by first(), then by last()."""

    def __init__(self) -> None:
        # Guards the three fields below it.
        self._guard = Lock()
        self._taken = False
        self._kept_free = 0
        self._waiting: list[_Waiter] = []

    @property
    def first_waiting(self) -> int:
        """So many wait by first(), urgent ones not among them."""
        return self._count(FIRST)

    @property
    def urgent_waiting(self) -> int:
        """So many urgent ones wait."""
        return self._count(URGENT)

    @contextmanager
    def first(self, urgent: bool = False) -> Iterator[None]:
        """Hold it, before everyone who waits by last()."""
        with self._held(lambda: URGENT if urgent else FIRST):
            yield

    @contextmanager
    def last(self, urgent: Callable[[], bool] = _never) -> Iterator[None]:
        """Hold it, when nobody waits by first() or `urgent` says so, which other threads ask too."""
        with self._held(lambda: URGENT if urgent() else LAST):
            yield

    @contextmanager
    def kept_free(self) -> Iterator[None]:
        """Nobody but urgent ones begins to hold it, so that what comes next of one waits for nothing."""
        with self._guard:
            self._kept_free += 1
        try:
            yield
        finally:
            with self._guard:
                self._kept_free -= 1
                if not self._taken:
                    self._hand_on()

    @contextmanager
    def _held(self, rank: Rank) -> Iterator[None]:
        waiter = _Waiter(rank)
        with self._guard:
            self._waiting.append(waiter)
            if not self._taken:
                self._hand_on()
        waiter.granted.wait()
        try:
            yield
        finally:
            with self._guard:
                self._hand_on()

    def _hand_on(self) -> None:
        """To the next one, chosen here and now: each looking for itself would see ranks change in between."""
        following = min(self._waiting, key=lambda waiter: waiter.rank(), default=None)
        self._taken = following is not None and (not self._kept_free or following.rank() == URGENT)
        if following is not None and self._taken:
            self._waiting.remove(following)
            following.granted.set()

    def _count(self, wanted: int) -> int:
        with self._guard:
            return sum(waiter.rank() == wanted for waiter in self._waiting)
