"""Turns at making pictures ready: so many at once, and none begun beside an urgent one."""

import threading
from collections.abc import Callable

from worker.picture_turns import PictureTurns

PATIENCE_S = 20


class Thread(threading.Thread):
    """Takes a turn, and keeps it until it is told to end."""

    def __init__(self, turns: PictureTurns, *, urgent: bool = False) -> None:
        super().__init__(daemon=True)
        self._turns, self._urgent = turns, urgent
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self._turns.turn(self._urgent):
            self.begun.set()
            assert self.may_end.wait(PATIENCE_S)

    def end(self) -> None:
        self.may_end.set()
        self.join(PATIENCE_S)
        assert not self.is_alive()


def begins(thread: Thread) -> bool:
    return thread.begun.wait(PATIENCE_S)


def waits(thread: Thread) -> bool:
    return not thread.begun.wait(0.2)


def both(check: Callable[[Thread], bool], threads: list[Thread]) -> bool:
    return all(check(thread) for thread in threads)


def test_so_many_at_once() -> None:
    turns = PictureTurns(2)
    first = [Thread(turns), Thread(turns)]
    assert both(begins, first)
    third = Thread(turns)
    assert waits(third)
    first[0].end()
    assert begins(third)
    first[1].end()
    third.end()


def test_an_urgent_one_begins_at_once_and_nothing_beside_it() -> None:
    turns = PictureTurns(2)
    first = [Thread(turns), Thread(turns)]
    assert both(begins, first)
    urgent = [Thread(turns, urgent=True), Thread(turns, urgent=True)]
    assert both(begins, urgent)
    for thread in first:
        thread.end()
    other = Thread(turns)
    assert waits(other)
    urgent[0].end()
    assert waits(other)
    urgent[1].end()
    assert begins(other)
    other.end()


def test_an_error_gives_the_turn_back() -> None:
    turns = PictureTurns(1)
    for urgent in (True, False):
        try:
            with turns.turn(urgent):
                raise RuntimeError
        except RuntimeError:
            pass
    after = Thread(turns)
    assert begins(after)
    after.end()
