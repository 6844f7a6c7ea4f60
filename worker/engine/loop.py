"""The engine: one thread that takes requests in turn and gives back futures; knows no model and no backend.

In this form it generates for one request at a time.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from contract.failure import FailureCode, Refusal
from worker.engine.beams import BeamSearch
from worker.engine.request import FloatArray, Generation, IntArray, Request
from worker.engine.runner import Runner
from worker.engine.search import GreedySearch, Search

logger = logging.getLogger(__name__)


class EngineStoppedError(Exception):
    """The engine takes no requests: it was closed, or its thread died (then that error is the cause).

    After a death nothing in this process generates again; who runs the process should end it.
    """


class _Ticket(Future[Generation]):
    """The future of a request, which can be cancelled also while the request runs.

    For that it stays pending inside until the outcome is there; running() goes by `begun` instead.
    """

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.request = request
        self.begun = False

    def running(self) -> bool:
        return self.begun and not self.done()


class Engine:
    """Runs requests on a runner, in a thread of its own that starts at once.

    `embed` maps token ids (row, position) int64 to (row, position, hidden) float32. `clock` gives the seconds
    that deadlines are measured in. Runner and `embed` are called from the engine's thread only.
    """

    def __init__(
        self,
        runner: Runner,
        embed: Callable[[IntArray], FloatArray],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._embed = embed
        self._clock = clock
        # Guards the three fields below it.
        self._changed = threading.Condition()
        self._waiting: deque[_Ticket] = deque()
        self._closed = False
        self._death: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="captionmill-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Future[Generation]:
        """Queue a request. Thread-safe. Raises EngineStoppedError after close() or the death of the thread.

        The future ends in a Generation; in Refusal(DEADLINE_EXCEEDED) when a step would begin at or after the
        deadline, which is noticed when the request's turn comes; or in the error that the runner or `embed`
        raised. cancel() works until then, also while the request runs: it leaves before its next step.
        running() is true from the prefill on.
        """
        with self._changed:
            if self._death is not None:
                raise EngineStoppedError("the engine's thread died") from self._death
            if self._closed:
                raise EngineStoppedError("the engine is closed")
            ticket = _Ticket(request)
            self._waiting.append(ticket)
            self._changed.notify()
            return ticket

    def close(self) -> None:
        """Take no more requests, cancel those that wait, finish the one that runs, end the thread.

        A second call does nothing.
        """
        with self._changed:
            self._closed = True
            cancelled = list(self._waiting)
            self._waiting.clear()
            self._changed.notify()
        for ticket in cancelled:
            ticket.cancel()
            ticket.set_running_or_notify_cancel()
        self._thread.join()

    def _run(self) -> None:
        try:
            while (ticket := self._next()) is not None:
                self._answer(ticket)
        except BaseException as death:  # noqa: BLE001 - kept and raised again from every submit
            self._die(death)

    def _next(self) -> _Ticket | None:
        """The request whose turn it is, waited for; None once the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            return None if self._closed else self._waiting.popleft()

    def _answer(self, ticket: _Ticket) -> None:
        """Bring one future to its end. What it raises, other than for the request itself, ends the engine."""
        outcome: Generation | Exception | None
        try:
            try:
                outcome = self._generate(ticket)
            except Exception as error:  # noqa: BLE001 - handed to the one who waits
                outcome = error
            # Must not fail unseen: rows left to the next request would be wrong answers without a sign of it.
            self._runner.release()
        except BaseException as death:
            _finish(ticket, _stopped_by(death))
            raise
        _finish(ticket, outcome)

    def _generate(self, ticket: _Ticket) -> Generation | None:
        """One request from prefill to its last token; None if it was cancelled."""
        request = ticket.request
        search: Search = BeamSearch(request) if request.num_beams > 1 else GreedySearch(request)
        if self._leaves(ticket):
            return None
        ticket.begun = True
        step = search.advance(self._runner.prefill(request.inputs_embeds[None]))
        while not isinstance(step, Generation):
            if self._leaves(ticket):
                return None
            inputs_embeds = self._embed(step.token_ids[:, None])
            step = search.advance(self._runner.decode(inputs_embeds, step.beam_idx))
        return step

    def _leaves(self, ticket: _Ticket) -> bool:
        """Before a step: True if the request was cancelled; raises Refusal if its deadline has come."""
        deadline = ticket.request.deadline
        if deadline is not None and self._clock() >= deadline:
            raise Refusal(
                FailureCode.DEADLINE_EXCEEDED, "The deadline passed before the answer was complete."
            )
        return ticket.cancelled()

    def _die(self, death: BaseException) -> None:
        """Fail all that wait, and every later submit."""
        logger.critical("the engine's thread died", exc_info=death)
        with self._changed:
            self._death = death
            orphans = list(self._waiting)
            self._waiting.clear()
        for ticket in orphans:
            _finish(ticket, _stopped_by(death))


def _finish(future: Future[Generation], outcome: Generation | Exception | None) -> None:
    """Set the outcome, unless the future was cancelled, of which those who wait for it are then told."""
    if not future.set_running_or_notify_cancel():
        return
    assert outcome is not None, "only a cancelled request ends without an outcome"
    if isinstance(outcome, Generation):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


def _stopped_by(death: BaseException) -> EngineStoppedError:
    stopped = EngineStoppedError("the engine's thread died")
    stopped.__cause__ = death
    return stopped
