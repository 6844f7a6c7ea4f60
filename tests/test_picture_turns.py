"""Turns at making pictures ready: so many at once, and none begun while they are paused."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

import pytest

from worker.picture_turns import PictureTurns

PATIENCE_S = 20
SOON_S = 0.2


class Thread(threading.Thread):
    """Takes a turn, and keeps it until it is told to end."""

    def __init__(self, turns: PictureTurns) -> None:
        super().__init__(daemon=True)
        self._turns = turns
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self._turns.turn():
            self.begun.set()
            assert self.may_end.wait(PATIENCE_S)

    def begins(self) -> bool:
        return self.begun.wait(PATIENCE_S)

    def waits(self) -> bool:
        return not self.begun.wait(SOON_S)

    def end(self) -> None:
        self.may_end.set()
        self.join(PATIENCE_S)
        assert not self.is_alive()


def test_so_many_at_once() -> None:
    turns = PictureTurns(2)
    first, second = Thread(turns), Thread(turns)
    assert first.begins()
    assert second.begins()
    third = Thread(turns)
    assert third.waits()
    first.end()
    assert third.begins()
    second.end()
    third.end()


def test_none_begins_until_nobody_pauses_them() -> None:
    turns = PictureTurns(2)
    begun = Thread(turns)
    assert begun.begins()
    with turns.paused():
        with turns.paused():
            other = Thread(turns)
            assert other.waits()
            begun.end()
        assert other.waits()
    assert other.begins()
    other.end()


@pytest.mark.parametrize("hold", [PictureTurns.turn, PictureTurns.paused])
def test_an_error_gives_back_what_was_taken(
    hold: Callable[[PictureTurns], AbstractContextManager[None]],
) -> None:
    turns = PictureTurns(1)
    with suppress(RuntimeError), hold(turns):
        raise RuntimeError
    after = Thread(turns)
    assert after.begins()
    after.end()
