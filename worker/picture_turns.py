"""Lets so many pictures be made ready at once, as more than there are cores finish no sooner."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PictureTurns:
    """Turns for threads that make pictures ready; knows no picture."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._taken = 0
        self._paused = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold one of them; waits until one is free and nobody pauses them."""
        with self._changed:
            self._changed.wait_for(lambda: not self._paused and self._taken < self._most)
            self._taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1
                self._changed.notify_all()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No turn begins; those that have begun go on."""
        with self._changed:
            self._paused += 1
        try:
            yield
        finally:
            with self._changed:
                self._paused -= 1
                self._changed.notify_all()
