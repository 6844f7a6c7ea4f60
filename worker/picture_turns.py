"""Lets so many pictures be made ready at once, and begins none while an urgent one is; knows no picture.

More than there are cores finish no sooner, and the one that somebody waits for would get a small share.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PictureTurns:
    """Urgent ones begin at once, beside what has begun."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._urgent = 0
        self._others = 0

    @contextmanager
    def turn(self, urgent: bool = False) -> Iterator[None]:
        """Hold a turn while the block runs."""
        with self._changed:
            if urgent:
                self._urgent += 1
            else:
                self._changed.wait_for(lambda: not self._urgent and self._others < self._most)
                self._others += 1
        try:
            yield
        finally:
            with self._changed:
                if urgent:
                    self._urgent -= 1
                else:
                    self._others -= 1
                self._changed.notify_all()
