"""The engine: one thread that steps many requests together and fulfils their futures; knows no backend.

A step is three calls long: the scheduler plans it, the runner computes it, each request's search reads its
logits.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from contract.failure import FailureCode, Refusal
from worker.engine.admission import Limits
from worker.engine.inbox import EngineStoppedError, Inbox, Ticket
from worker.engine.observer import EngineObserver
from worker.engine.request import FloatArray, Generations, IntArray, Request
from worker.engine.runner import Runner, SequenceId, SequenceInput
from worker.engine.sampling import RowSearch
from worker.engine.scheduled_request import ScheduledRequest, StepItem
from worker.engine.scheduler import Scheduler
from worker.engine.search import NextRows
from worker.errors import attempt

logger = logging.getLogger(__name__)

IDLE_TICK_S: Final = 1.0
"""Seconds between two signs of life while the thread has nothing to do."""


@dataclass
class EngineTimes:
    """Seconds that the engine's thread spent, and the numbers of its steps and positions."""

    steps: int = 0
    positions: int = 0
    runner_s: float = 0.0
    between_s: float = 0.0
    """from one runner call to the next, without waits for requests or for the device"""

    def count(self, positions: int, runner_s: float) -> None:
        """Count a step and its positions; the runner took `runner_s` of its time."""
        self.steps += 1
        self.positions += positions
        self.runner_s += runner_s


class Engine:
    """Runs requests on a runner, in its own thread, which starts at once.

    `embed` maps token ids (row, position) int64 to (row, position, hidden) float32. `clock` gives the seconds
    that deadlines are measured in. Runner and `embed` are called from the engine's thread alone, within
    `computing(priority)`, which may keep others from the device. `priority()` tells whether a request with
    priority has no token yet; any thread may call it. `on_death` is called once, in the dying thread, if the
    thread ends otherwise than by close().
    """

    def __init__(
        self,
        runner: Runner,
        embed: Callable[[IntArray], FloatArray],
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        computing: Callable[[Callable[[], bool]], AbstractContextManager[object]] = nullcontext,
        on_death: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._runner = runner
        self._embed = embed
        self._clock = clock
        self._computing = computing
        self._on_death = on_death
        self._observer: EngineObserver | None = None
        self._ticked = time.monotonic()
        self._scheduler = Scheduler(runner, limits)
        self._tickets: dict[ScheduledRequest, Ticket] = {}
        self.times = EngineTimes()
        self._left_runner: float | None = None
        self._inbox = Inbox()
        self._thread = threading.Thread(target=self._run, name="captionmill-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Future[Generations]:
        """Queue a request. Thread-safe. Raises EngineStoppedError after close() or the death of the thread.

        The future ends in Generations or in an exception: Refusal(EXCEEDS_CAPACITY) for a request larger than
        a whole batch may be, Refusal(DEADLINE_EXCEEDED) if a step would begin at or after the deadline, or
        the error of the runner, `embed`, its search or its callbacks. cancel() works until then, also while
        the request runs, which leaves before the next step. running() is true from its first step on.
        """
        return self._inbox.put(request)

    def observe(self, observer: EngineObserver) -> None:
        """Report every step to `observer` from now on."""
        self._observer = observer

    @property
    def ticked(self) -> float:
        """When the thread last went round or, while idle, showed that it lives; monotonic seconds.

        Every IDLE_TICK_S while idle; while it computes, once a step.
        """
        return self._ticked

    @property
    def rows(self) -> int:
        """Number of sequences in the batch."""
        return self._scheduler.rows

    @property
    def kv_bytes(self) -> int:
        """Bytes reserved for the requests in the batch: the most that they may fill."""
        return self._scheduler.kv_bytes

    @property
    def prefix_hits(self) -> int:
        """Number of requests that began as a fork of another's prefix."""
        return self._scheduler.prefix_hits

    def close(self) -> None:
        """Take no more requests, cancel those not begun, finish the others, end the thread.

        A second call does nothing.
        """
        self._inbox.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                asked = time.perf_counter()
                with self._computing(self._inbox.priority_prompt_waits):
                    if self._left_runner is not None:
                        self._left_runner += time.perf_counter() - asked
                    self._take_arrived()
                    self._end_early()
                    self._step()
        except BaseException as death:  # noqa: BLE001 - kept and raised again from every submit
            self._die(death)

    def _wait_for_work(self) -> bool:
        """Return when there is work; False if the engine is closed and there will be none."""
        self._ticked = time.monotonic()
        if self._scheduler.idle and not self._inbox.wait(0.0):
            self._left_runner = None
            while not self._inbox.wait(IDLE_TICK_S):
                self._ticked = time.monotonic()
            self._ticked = time.monotonic()
        return not self._inbox.is_done(lambda: self._scheduler.idle)

    def _take_arrived(self) -> None:
        """Pass what has arrived to the scheduler; once closed, cancel what has not begun."""
        arrived, closed = self._inbox.take()
        if closed:
            for ticket in (*arrived, *(t for t in self._tickets.values() if not t.begun)):
                ticket.cancel()
        for ticket in arrived:
            scheduled = attempt(partial(self._scheduler.add, ticket.request))
            if isinstance(scheduled, Exception):
                _finish(ticket, scheduled)
            else:
                self._tickets[scheduled] = ticket

    def _end_early(self) -> None:
        """End requests that were cancelled, asked to stop or are past their deadline."""
        now = self._clock()
        for scheduled, ticket in list(self._tickets.items()):
            deadline, stop_asked = ticket.request.deadline, ticket.request.stop_asked
            if ticket.cancelled():
                self._end(scheduled, None)
            elif stop_asked is not None and stop_asked():
                assert isinstance(scheduled.search, RowSearch), "the request was checked"
                self._end(scheduled, scheduled.search.cut_short())
            elif deadline is not None and now >= deadline:
                late = "The deadline passed before the answer was complete; ask again with a later one."
                self._end(scheduled, Refusal(FailureCode.DEADLINE_EXCEEDED, late))

    def _step(self) -> None:
        """Plan a step, compute it and advance its requests."""
        items = self._scheduler.plan()
        if not items:
            return
        for item in items:
            self._tickets[item.scheduled].begun = True
        logits = attempt(lambda: self._timed_step(_inputs(items, self._embed)))
        if isinstance(logits, Exception):
            self._fail(items, logits)
            return
        ends = np.cumsum([item.rows for item in items])
        for item, own in zip(items, np.split(logits, ends[:-1]), strict=True):
            self._advance(item, own)

    def _timed_step(self, inputs: list[SequenceInput]) -> FloatArray:
        begun = time.perf_counter()
        if self._left_runner is not None:
            self.times.between_s += begun - self._left_runner
        logits = self._runner.step(inputs)
        self._left_runner = time.perf_counter()
        seconds = self._left_runner - begun
        positions = sum(len(one.inputs_embeds) for one in inputs)
        self.times.count(positions, seconds)
        if self._observer is not None:
            self._observer.stepped(seconds, len(inputs), prefill=positions > len(inputs))
        return logits

    def _advance(self, item: StepItem, logits: FloatArray) -> None:
        """Give a request its logits (row, vocabulary); an exception there ends this request alone."""
        scheduled = item.scheduled
        scheduled.count(item.prompt)
        if scheduled.prompt_left:
            return
        if item.prompt is not None:
            self._inbox.prompt_is_done(self._tickets[scheduled])
            if self._observer is not None:
                self._observer.first_token(time.perf_counter() - self._tickets[scheduled].submitted)
        found = attempt(lambda: _advanced(scheduled, logits))
        if isinstance(found, NextRows):
            self._scheduler.proceed(scheduled, found)
        else:
            self._end(scheduled, found)

    def _end(self, scheduled: ScheduledRequest, outcome: Generations | Exception | None) -> None:
        self._scheduler.end(scheduled)
        _finish(self._tickets.pop(scheduled), outcome)

    def _fail(self, items: list[StepItem], error: Exception) -> None:
        """End all requests of a step that failed: nothing that they share is known to be intact."""
        self._scheduler.drop(item.scheduled for item in items)
        for item in items:
            _finish(self._tickets.pop(item.scheduled), error)

    def _die(self, death: BaseException) -> None:
        """Fail all requests that wait or run, and every later submit()."""
        logger.critical("the engine's thread died", exc_info=death)
        stopped = EngineStoppedError("the engine's thread died")
        stopped.__cause__ = death
        for ticket in (*self._tickets.values(), *self._inbox.die(death)):
            _finish(ticket, stopped)
        if self._on_death is not None:
            self._on_death(death)


def _advanced(scheduled: ScheduledRequest, logits: FloatArray) -> NextRows | Generations:
    """What the request's search makes of its logits (row, vocabulary); `on_tokens` gets the new token."""
    found = scheduled.search.advance(logits)
    if (on_tokens := scheduled.request.on_tokens) is not None:
        on_tokens(found.token_ids.tolist() if isinstance(found, NextRows) else found[0].token_ids[-1:])
    return found


def _inputs(items: list[StepItem], embed: Callable[[IntArray], FloatArray]) -> list[SequenceInput]:
    """What the items append, in their order; the tokens of all rows are embedded together."""
    token_ids = [item.scheduled.token_ids for item in items if item.prompt is None]
    embedded: Iterator[FloatArray] = iter(())
    if token_ids:
        assert all(ids is not None for ids in token_ids), "a request past its prompt has tokens to append"
        embedded = iter(embed(np.concatenate(token_ids)[:, None]))  # type: ignore[arg-type]
    return [_input(item, sequence, embedded) for item in items for sequence in item.scheduled.sequences]


def _input(item: StepItem, sequence: SequenceId, embedded: Iterator[FloatArray]) -> SequenceInput:
    request = item.scheduled.request
    if item.prompt is None:
        return SequenceInput(sequence, next(embedded), item.scheduled.next_position)
    positions = None if request.positions is None else request.positions[item.prompt]
    return SequenceInput(sequence, request.inputs_embeds[item.prompt], positions)


def _finish(future: Future[Generations], outcome: Generations | Exception | None) -> None:
    """Set the outcome; if the future was cancelled, notify those who wait for it instead."""
    if not future.set_running_or_notify_cancel():
        return
    assert outcome is not None, "only a cancelled request ends without an outcome"
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
