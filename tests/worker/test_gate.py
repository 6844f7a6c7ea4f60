"""Who passes the gate, and when."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.support.processes import wait_until
from worker.delivery.gate import Gate

WAIT_S = 0.1
"""Long enough for a thread to pass a gate that lets it."""


class Passing:
    """A thread that comes to a gate and stays behind it until it is told to leave."""

    def __init__(self, pass_: Callable[[], AbstractContextManager[None]]) -> None:
        self.inside, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._stay, args=(pass_,), daemon=True)
        self._thread.start()

    def _stay(self, pass_: Callable[[], AbstractContextManager[None]]) -> None:
        with pass_():
            self.inside.set()
            self._leave.wait()

    def leave(self) -> None:
        self._leave.set()
        self._thread.join()


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_many_pass_together(gate: Gate) -> None:
    first, second = Passing(gate.shared), Passing(gate.shared)
    wait_until(lambda: first.inside.is_set() and second.inside.is_set())
    first.leave()
    second.leave()


def test_one_alone_waits_for_the_others_and_goes_before_later_ones(gate: Gate) -> None:
    first = Passing(gate.shared)
    first.inside.wait()
    alone = Passing(gate.exclusive)
    assert not alone.inside.wait(WAIT_S)
    later = Passing(gate.shared)
    assert not later.inside.wait(WAIT_S)
    first.leave()
    alone.inside.wait()
    assert not later.inside.wait(WAIT_S)
    alone.leave()
    later.inside.wait()
    later.leave()


def test_of_two_alone_one_waits(gate: Gate) -> None:
    both = [Passing(gate.exclusive), Passing(gate.exclusive)]
    wait_until(lambda: any(one.inside.is_set() for one in both))
    both.sort(key=lambda one: not one.inside.is_set())
    assert not both[1].inside.wait(WAIT_S)
    for one in both:
        one.leave()
