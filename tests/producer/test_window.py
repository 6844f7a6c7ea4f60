"""How many jobs go out, and how many of them in one message."""

import pytest
import redis

from producer.window import (
    MOST_TOGETHER,
    SMALLEST_WINDOW,
    TOGETHER_S,
    WINDOW_PER_SLOT,
    WORKERS_EVERY_S,
    Window,
)
from tests.support.workers import announce

QUICK_S = 0.01


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_window_that_was_asked_for_stays(connection: redis.Redis) -> None:
    announce(connection, "w", "m", slots=1000)
    window = Window(connection, 7)
    assert window.jobs == 7
    assert window.portion(5, 100, QUICK_S) == (2, 1)


def test_it_follows_workers_that_come_and_go(connection: redis.Redis) -> None:
    clock = Clock()
    window = Window(connection, None, clock)
    assert window.jobs == SMALLEST_WINDOW
    announce(connection, "a", "m", slots=16)
    announce(connection, "b", "m", slots=100)
    assert window.jobs == SMALLEST_WINDOW, "it has looked just now"
    clock.now += WORKERS_EVERY_S
    assert window.jobs == WINDOW_PER_SLOT * 116
    announce(connection, "b", "m", slots=100, age_s=3600)
    clock.now += WORKERS_EVERY_S
    assert window.jobs == SMALLEST_WINDOW


def test_until_the_first_answer_each_slot_gets_two_jobs(connection: redis.Redis) -> None:
    announce(connection, "w", "m", slots=16)
    window = Window(connection, None)
    assert window.portion(0, 10_000, None) == (32, 1)
    assert window.portion(30, 10_000, None) == (2, 1)
    assert window.portion(32, 10_000, None)[0] == 0
    assert Window(connection, 10).portion(0, 10_000, None) == (10, 1)


@pytest.mark.parametrize(
    ("job_s", "together"), [(QUICK_S, MOST_TOGETHER), (TOGETHER_S / 3, 3), (TOGETHER_S / 1.5, 1), (1000.0, 1)]
)
def test_a_message_takes_a_slot_no_longer_than_so_many_seconds(
    connection: redis.Redis, job_s: float, together: int
) -> None:
    announce(connection, "w", "m", slots=8)
    assert Window(connection, None).portion(100, 10_000, job_s) == (156, together)


@pytest.mark.parametrize("slots", [1, 16, 64])
def test_while_one_slot_has_a_message_there_is_as_much_for_each_of_the_others(
    connection: redis.Redis, slots: int
) -> None:
    announce(connection, "w", "m", slots=slots)
    window = Window(connection, None)
    unsent, sizes = 5000, []
    while unsent:
        room, together = window.portion(0, unsent, QUICK_S)
        assert room > 0
        unsent -= min(room, unsent)
        sizes.append(together)
        assert together == 1 or together * slots <= unsent
        assert together * slots <= window.jobs / 2 or together == 1
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1
    assert sizes[-1] == 1
