"""Decides which thread uses the device and the cores of this process next; knows no job and no model.

Two models that compute at once share cores and caches badly (docs/engine.md), so one computes at a time. The
vision model goes first: the language model is faster with more rows, and each thread that encodes an image
then waits for its answers, so the wait has an end. Interactive work goes before both.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from worker.lane import Lane

INTERACTIVE, VISION, LANGUAGE = range(3)
"""Ranks of those who wait for the device, the first to be served first."""
CORES: Final = len(os.sched_getaffinity(0))

Rank = Callable[[], int]


class _Waiter:
    """A thread that waits for the device. Its rank may change meanwhile."""

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self.granted = threading.Event()


class DeviceScheduler:
    """One per process, shared by its threads.

    Work of an interactive job waits for nothing but work that has begun. Bulk and suspect work waits before
    each of its turns, and wherever it calls yield_to_interactive(), while an interactive job is on its way to
    the engine: threads that compute share the cores, and threads that run Python share its lock.
    """

    def __init__(self, image_turns: int = CORES) -> None:
        """Up to `image_turns` images are made ready at once: more than there are cores finish no sooner."""
        self._image_turns = threading.BoundedSemaphore(image_turns)
        # Guards the fields below it.
        self._changed = threading.Condition()
        self._interactive = 0
        self._taken = False
        self._waiting: list[_Waiter] = []

    @contextmanager
    def image_turn(self, lane: Lane) -> Iterator[None]:
        """Decode an image and cut it into tiles."""
        if lane is Lane.INTERACTIVE:
            yield
            return
        with self._image_turns:
            self.yield_to_interactive(lane)
            yield

    @contextmanager
    def vision_turn(self, lane: Lane) -> Iterator[None]:
        """Run the vision model, with the device to itself."""
        rank = INTERACTIVE if lane is Lane.INTERACTIVE else VISION
        with self._device(lambda: rank):
            yield

    @contextmanager
    def language_turn(self, is_interactive: Callable[[], bool]) -> Iterator[None]:
        """Run the language model, with the device to itself.

        `is_interactive`, which any thread may call, says whether an interactive prompt is in this turn.
        """
        with self._device(lambda: INTERACTIVE if is_interactive() else LANGUAGE):
            yield

    @contextmanager
    def interactive_turn(self, lane: Lane) -> Iterator[None]:
        """Take a job from its image's bytes to the engine. A job of another lane only runs its block.

        Nobody else begins to use the device meanwhile, so that the job's next step waits for nothing.
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

        Not to be called by a thread that holds what an interactive job needs.
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
        """Give the device to the next waiter. If waiters chose, ranks could change in between."""
        following = min(self._waiting, key=lambda waiter: waiter.rank(), default=None)
        self._taken = following is not None and (not self._interactive or following.rank() == INTERACTIVE)
        if following is not None and self._taken:
            self._waiting.remove(following)
            following.granted.set()
