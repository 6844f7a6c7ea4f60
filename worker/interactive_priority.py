"""Lets what somebody waits for go before all else in this process; knows neither what goes nor what waits."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


class RightOfWay:
    """While somebody claims it, others wait wherever they come to give it.

    Threads that compute share the cores, and those that run Python share its lock: a question that comes when
    many jobs end at once would else wait for all of them.
    """

    def __init__(self, device_kept_free: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        """Claims hold `device_kept_free()`, too."""
        self._device_kept_free = device_kept_free
        self._changed = threading.Condition()
        self._claims = 0

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Others go on to where they next give it; those that have passed there go on."""
        with self._changed:
            self._claims += 1
        try:
            with self._device_kept_free():
                yield
        finally:
            with self._changed:
                self._claims -= 1
                self._changed.notify_all()

    def give(self) -> None:
        """Return when nobody claims it. Not for one who does, or who holds what that one needs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._claims)
