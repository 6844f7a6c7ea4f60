"""A question that somebody waits for: read along, stopped, asked again when its worker dies, never leaked."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from contract.answer import Answer
from contract.broker import INTERACTIVE_QUEUE
from contract.job import GenerationParameters, TextPart, Turn
from contract.store import WORKERS_KEY
from producer.ask import InteractiveQuestion, NoWorkerError, Waiting, ask
from producer.connection import connect
from producer.queue import Queue
from tests.support.processes import start_worker, wait_until
from tests.support.workers import announce

ENDLESS = GenerationParameters(min_new_tokens=1)
"""The fake engine goes on with it until it is asked to stop."""


@pytest.fixture
def queue(redis_url: str, connection: redis.Redis) -> Iterator[Queue]:
    made = Queue(redis_url, connection)
    yield made
    made.close()


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Starts a worker with a fake model, ready when it returns."""
    started: list[Any] = []

    def start_one() -> Any:
        log = tmp_path / f"worker-{len(started)}.log"
        environment = {
            "CAPTIONMILL_REDIS_URL": redis_url,
            "CAPTIONMILL_MODEL_FOLDER": str(tmp_path),
            "HOLD": str(tmp_path / "hold"),
        }
        started.append(start_worker("tests.support.fake_worker", log, environment))
        wait_until(lambda: " ready." in log.read_text())
        return started[-1]

    yield start_one
    for worker in started:
        worker.kill()
        worker.wait()


def leftovers(connection: redis.Redis) -> list[bytes]:
    """Keys of questions that stay for ever."""
    found: Any = connection.keys("captionmill:{ask-*")
    return [key for key in found if connection.ttl(key) < 0]


def test_a_conversation_is_asked_as_it_is(
    start: Callable[[], Any], redis_url: str, connection: redis.Redis, queue: Queue
) -> None:
    start()
    turns = (
        Turn(role="user", content=(TextPart(text="four"),)),
        Turn(role="assistant", content="9"),
        Turn(role="user", content="more"),
    )
    outcome = ask(connect(redis_url), queue, InteractiveQuestion(None, turns))
    assert isinstance(outcome, Answer)
    assert outcome.text == f"{len('four 9 more')} tokens"
    assert leftovers(connection) == []


def test_stop_ends_an_answer_that_streams_with_what_is_there(
    start: Callable[[], Any], connection: redis.Redis, queue: Queue
) -> None:
    start()
    waiting = Waiting(connection, queue, InteractiveQuestion(None, "four", ENDLESS))
    pieces = []
    for piece in waiting.pieces():
        pieces.append(piece)
        waiting.stop()
    assert isinstance(waiting.outcome, Answer)
    assert "".join(pieces) == waiting.outcome.text == "4 tokens"
    assert leftovers(connection) == []
    wait_until(lambda: connection.hlen("unacked") == 0)


def test_stop_ends_beams_without_an_answer(
    start: Callable[[], Any], connection: redis.Redis, queue: Queue
) -> None:
    announce(connection, "someone", "m")
    waiting = Waiting(connection, queue, InteractiveQuestion(None, "four", GenerationParameters(num_beams=2)))
    threading.Timer(0.3, waiting.stop).start()
    assert list(waiting.pieces()) == []
    assert waiting.outcome is None
    start()
    wait_until(lambda: connection.llen(INTERACTIVE_QUEUE) + connection.hlen("unacked") == 0)
    assert leftovers(connection) == []


def test_nobody_there_is_told_and_a_worker_that_comes_later_does_no_work(
    start: Callable[[], Any], connection: redis.Redis, queue: Queue
) -> None:
    with pytest.raises(NoWorkerError, match="captionmill worker --redis redis://"):
        ask(connection, queue, InteractiveQuestion(None, "four"))
    start()
    wait_until(lambda: connection.llen(INTERACTIVE_QUEUE) + connection.hlen("unacked") == 0)
    assert leftovers(connection) == []


def test_it_is_asked_again_when_its_worker_dies(
    start: Callable[[], Any], connection: redis.Redis, queue: Queue
) -> None:
    victim = start()
    wait_until(lambda: connection.hlen(WORKERS_KEY) == 1)
    waiting = Waiting(connection, queue, InteractiveQuestion(None, "four", ENDLESS))
    pieces = waiting.pieces()
    assert next(pieces) == "4 tokens"
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    connection.delete(WORKERS_KEY)  # as 20 s without a report do
    start()

    def stop_when_taken() -> None:
        wait_until(lambda: connection.hlen("unacked") == 2)  # the dead one's too
        waiting.stop()

    threading.Thread(target=stop_when_taken).start()
    assert list(pieces) == []
    assert isinstance(waiting.outcome, Answer)
    assert waiting.outcome.text == "4 tokens"


def test_leaving_early_leaves_nothing(
    start: Callable[[], Any], connection: redis.Redis, queue: Queue
) -> None:
    start()
    waiting = Waiting(connection, queue, InteractiveQuestion(None, "four", ENDLESS))
    pieces = waiting.pieces()
    next(pieces)
    pieces.close()
    assert waiting.outcome is None
    wait_until(lambda: connection.hlen("unacked") == 0)
    time.sleep(0.3)  # what it may have written after the end
    assert leftovers(connection) == []
