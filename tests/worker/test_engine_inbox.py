"""The inbox while other threads and the engine's use it at once."""

import threading
from concurrent.futures import Future

import pytest

from tests.support.fake_runner import make_request
from worker.engine.inbox import EngineStoppedError, Inbox
from worker.engine.request import Generations

PATIENCE_S = 20
PRIORITISED = make_request([50, 1], has_priority=True)


def test_a_prioritised_prompt_waits_until_it_is_through_or_cancelled() -> None:
    inbox = Inbox()
    inbox.put(make_request([50, 1]))
    assert not inbox.priority_prompt_waits()
    through, cancelled = inbox.put(PRIORITISED), inbox.put(PRIORITISED)
    inbox.prompt_is_done(through)
    assert inbox.priority_prompt_waits()
    assert cancelled.cancel()
    assert not inbox.priority_prompt_waits()


def test_a_cancelled_prompt_is_forgotten_only_while_nobody_looks() -> None:
    """What is asked under the lock is true until the lock is given back."""
    inbox = Inbox()
    prioritised = inbox.put(PRIORITISED)
    inbox.take()
    inbox.close()
    cancelled = threading.Event()

    def cancel(ticket: Future[Generations]) -> None:
        ticket.cancel()
        cancelled.set()

    canceller = threading.Thread(target=cancel, args=[prioritised])

    def looks() -> bool:
        canceller.start()
        return not cancelled.wait(0.2)

    assert inbox.is_done(looks), "it was forgotten without the lock"
    assert cancelled.wait(PATIENCE_S)
    canceller.join(PATIENCE_S)
    assert not inbox.priority_prompt_waits()


def test_what_is_closed_takes_no_more_and_tells_what_it_has() -> None:
    inbox = Inbox()
    ticket = inbox.put(PRIORITISED)
    inbox.close()
    with pytest.raises(EngineStoppedError, match="closed"):
        inbox.put(PRIORITISED)
    assert not inbox.is_done(lambda: True)
    assert inbox.take() == ([ticket], True)
    assert inbox.is_done(lambda: True)
    assert not inbox.is_done(lambda: False)


def test_after_a_death_it_takes_no_more_and_gives_up_what_it_has() -> None:
    inbox = Inbox()
    ticket = inbox.put(PRIORITISED)
    assert inbox.die(MemoryError("no room")) == [ticket]
    with pytest.raises(EngineStoppedError, match="died") as stopped:
        inbox.put(PRIORITISED)
    assert isinstance(stopped.value.__cause__, MemoryError)
