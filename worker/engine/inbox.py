"""Passes requests from other threads to the engine's thread; knows neither steps nor sequences."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from worker.engine.request import Generations, Request
from worker.errors import WorkerError


class EngineStoppedError(WorkerError):
    """The engine takes no requests: it was closed, or its thread died (then that error is the cause).

    After a death nothing in this process generates again, so the process should be ended.
    """


class Ticket(Future[Generations]):
    """The future of a request, which can be cancelled also while the request runs.

    It stays pending inside until there is an outcome; running() looks at `begun` instead.
    """

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.request = request
        self.begun = False
        self.submitted = time.perf_counter()

    def running(self) -> bool:
        return self.begun and not self.done()


class Inbox:
    """Holds submitted requests until the engine's thread takes them; any thread may call any method."""

    def __init__(self) -> None:
        # Guards all fields below it.
        self._changed = threading.Condition()
        self._arrived: deque[Ticket] = deque()
        self._closed = False
        self._death: BaseException | None = None
        self._priority_prompts: set[Ticket] = set()
        """requests with priority that have no token yet"""

    def put(self, request: Request) -> Ticket:
        """Queue a request. Raises EngineStoppedError after close() or die()."""
        with self._changed:
            if self._death is not None:
                raise EngineStoppedError("the engine's thread died") from self._death
            if self._closed:
                raise EngineStoppedError("the engine is closed")
            ticket = Ticket(request)
            if request.has_priority:
                self._priority_prompts.add(ticket)
                ticket.add_done_callback(self.prompt_is_done)
            self._arrived.append(ticket)
            self._changed.notify()
            return ticket

    def close(self) -> None:
        """Take no more requests."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def die(self, death: BaseException) -> list[Ticket]:
        """Take no more requests because of `death` → the requests that nobody took."""
        with self._changed:
            self._death = death
            orphans = list(self._arrived)
            self._arrived.clear()
            return orphans

    def wait(self, timeout_s: float) -> bool:
        """Whether there is something to take or the inbox is closed, now or within the time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or bool(self._arrived), timeout_s)

    def take(self) -> tuple[list[Ticket], bool]:
        """What has arrived, and whether the inbox is closed."""
        with self._changed:
            arrived = list(self._arrived)
            self._arrived.clear()
            return arrived, self._closed

    def is_done(self, idle: Callable[[], bool]) -> bool:
        """Whether it is closed and empty and its reader `idle`, so that nothing will ever come."""
        with self._changed:
            return self._closed and not self._arrived and idle()

    def prompt_is_done(self, ticket: Future[Generations]) -> None:
        """The request has its first token, or has ended without one."""
        with self._changed:
            self._priority_prompts.discard(ticket)

    def priority_prompt_waits(self) -> bool:
        """Whether a request with priority has no token yet."""
        with self._changed:
            return bool(self._priority_prompts)
