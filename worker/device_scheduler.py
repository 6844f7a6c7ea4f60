"""Decides which thread uses the device and the cores of this process next; knows no job and no model.

Two models that compute at once slow each other down (docs/engine.md), so one computes at a time. The vision
model goes first, as the language model is faster with more rows. Threads that encode images then wait for
their answers, so the language model's wait ends. Interactive work goes before both.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from worker.lane import Lane

INTERACTIVE, VISION, LANGUAGE = range(3)
"""Ranks of threads that wait for the device; the lowest is served first."""
CORES: Final = len(os.sched_getaffinity(0))

Rank = Callable[[], int]


class _Waiter:
    """A thread that waits for the device. Its rank may change while it waits."""

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self.granted = threading.Event()


class DeviceScheduler:
    """One per process, shared by its threads.

    Work of an interactive job waits only for work that has begun. While an interactive job is on its way to
    the engine, bulk and suspect work waits before each turn and in yield_to_interactive(): threads that
    compute share the cores, and threads that run Python share its lock.
    """

    def __init__(self, image_turns: int = CORES) -> None:
        """`image_turns` images are made ready at once; more than there are cores finish no sooner."""
        self._image_turns = threading.BoundedSemaphore(image_turns)
        # Guards the fields below it.
        self._changed = threading.Condition()
        self._interactive = 0
        self._taken = False
        self._waiting: list[_Waiter] = []

    @contextmanager
    def image_turn(self, lane: Lane) -> Iterator[None]:
        """Hold a turn to decode an image and cut it into tiles."""
        if lane is Lane.INTERACTIVE:
            yield
            return
        with self._image_turns:
            self.yield_to_interactive(lane)
            yield

    @contextmanager
    def vision_turn(self, lane: Lane) -> Iterator[None]:
        """Hold the device alone, to run the vision model."""
        rank = INTERACTIVE if lane is Lane.INTERACTIVE else VISION
        with self._device(lambda: rank):
            yield

    @contextmanager
    def language_turn(self, is_interactive: Callable[[], bool]) -> Iterator[None]:
        """Hold the device alone, to run the language model.

        `is_interactive` says whether an interactive prompt is in this turn; any thread may call it.
        """
        with self._device(lambda: INTERACTIVE if is_interactive() else LANGUAGE):
            yield

    @contextmanager
    def interactive_turn(self, lane: Lane) -> Iterator[None]:
        """Take an interactive job from its image's bytes to the engine; nobody else begins to use the device.

        A job of another lane only runs its block.
        """
        if lane is not Lane.INTERACTIVE:
            yield
            return
        with self._changed:
            self._interactive += 1
        try:
            yield
        finally:
            with self._changed:
                self._interactive -= 1
                if not self._taken:
                    self._hand_on()
                self._changed.notify_all()

    def yield_to_interactive(self, lane: Lane) -> None:
        """Return when no interactive job is in its interactive_turn(); at once for an interactive job.

        A thread that holds what an interactive job needs must not call it.
        """
        if lane is not Lane.INTERACTIVE:
            with self._changed:
                self._changed.wait_for(lambda: not self._interactive)

    def waiting(self, rank: int) -> int:
        """Number of threads that wait for the device with this rank."""
        with self._changed:
            return sum(waiter.rank() == rank for waiter in self._waiting)

    @contextmanager
    def _device(self, rank: Rank) -> Iterator[None]:
        waiter = _Waiter(rank)
        with self._changed:
            self._waiting.append(waiter)
            if not self._taken:
                self._hand_on()
        waiter.granted.wait()
        try:
            yield
        finally:
            with self._changed:
                self._hand_on()

    def _hand_on(self) -> None:
        """Give the device to the waiter of lowest rank. If waiters chose, ranks could change meanwhile."""
        following = min(self._waiting, key=lambda waiter: waiter.rank(), default=None)
        self._taken = following is not None and (not self._interactive or following.rank() == INTERACTIVE)
        if following is not None and self._taken:
            self._waiting.remove(following)
            following.granted.set()
