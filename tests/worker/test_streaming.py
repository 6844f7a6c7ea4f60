"""Streamed answers: every increment once, an end whatever happens, and a way to stop."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import redis

from contract.answer import Answer
from contract.failure import FailureCode, Refusal
from contract.job import ImagePath, Job, Question
from contract.store import END_FIELD, TOKENS_FIELD, TOKENS_KEPT_S, stop_key, tokens_key
from tests.support.fakes import FakeEngine, FakeModel
from tests.support.processes import wait_until
from tests.support.runners import EXACT, stateful
from worker.delivery.streaming import TokenStreams
from worker.delivery.token_store import Increment, Published, TokenStore
from worker.engine.admission import Limits
from worker.engine.inbox import EngineStoppedError
from worker.engine.loop import Engine
from worker.errors import Requeue, StoreAwayError
from worker.images.decoder import Decoder
from worker.images.image_file import ImageLimits
from worker.llava.model import LlavaModel
from worker.service import Service

KEY = tokens_key("r", 1)
LIMITS = ImageLimits(max_bytes=10**6, max_px=10**6, max_side_px=10**4, max_aspect=50.0)


def as_text(token_ids: Sequence[int]) -> str:
    return "".join(map(chr, token_ids))


@pytest.fixture
def streams(redis_url: str) -> Iterator[TokenStreams]:
    made = TokenStreams(TokenStore(redis_url))
    yield made
    made.close()


def entries(connection: redis.Redis, key: str = KEY) -> list[dict[bytes, bytes]]:
    found: Any = connection.xrange(key)
    return [fields for _, fields in found]


def read_along(connection: redis.Redis, key: str = KEY) -> str:
    """The text once the stream has ended, each of its entries whole characters."""
    wait_until(lambda: any(END_FIELD.encode() in entry for entry in entries(connection, key)))
    *increments, end = entries(connection, key)
    assert list(end) == [END_FIELD.encode()]
    assert all(list(entry) == [TOKENS_FIELD.encode()] for entry in increments)
    texts = [entry[TOKENS_FIELD.encode()].decode() for entry in increments]
    assert all(texts)
    return "".join(texts)


def test_tokens_are_published_as_they_come_and_then_the_end(
    streams: TokenStreams, connection: redis.Redis
) -> None:
    stream = streams.open("r", 1, as_text)
    for number, text in enumerate(("Three ", "réd ", "blocks"), start=1):
        stream.take([*map(ord, text)])
        wait_until(lambda: connection.xlen(KEY) == number)  # noqa: B023 - called at once
    stream.end("Three réd blocks.")
    assert read_along(connection) == "Three réd blocks."
    assert 0 < int(connection.ttl(KEY)) <= TOKENS_KEPT_S


def test_many_streams_do_not_mix(streams: TokenStreams, connection: redis.Redis) -> None:
    def answer(index: int) -> None:
        stream = streams.open("r", index, as_text)
        for character in str(index) * 50:
            stream.take([ord(character)])
        stream.end(str(index) * 50)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(answer, range(8)))
    for index in range(8):
        assert read_along(connection, tokens_key("r", index)) == str(index) * 50


def test_without_an_answer_a_stream_ends_too(streams: TokenStreams, connection: redis.Redis) -> None:
    streams.open("r", 1, as_text).end(None)
    assert read_along(connection) == ""


def test_what_another_worker_began_is_gone_on_with(
    streams: TokenStreams, redis_url: str, connection: redis.Redis
) -> None:
    """Whether it died or gave the job back: readers get the text once."""
    stream = streams.open("r", 1, as_text)
    stream.take([*map(ord, "Three red")])
    wait_until(lambda: connection.xlen(KEY))
    stream.leave()
    again = TokenStreams(TokenStore(redis_url))
    second = again.open("r", 1, as_text)
    for character in "Three red blocks":
        second.take([ord(character)])
    second.end("Three red blocks")
    again.close()
    assert read_along(connection) == "Three red blocks"
    third = streams.open("r", 1, as_text)
    third.take([ord("T")])
    third.end("Three red blocks")
    streams.open("r", 2, as_text).end("")
    read_along(connection, tokens_key("r", 2))
    assert read_along(connection) == "Three red blocks"


def test_a_job_delivered_again_meanwhile_is_published_once(
    streams: TokenStreams, connection: redis.Redis
) -> None:
    first = streams.open("r", 1, as_text)
    first.take([*map(ord, "Three")])
    wait_until(lambda: connection.xlen(KEY))
    second = streams.open("r", 1, as_text)
    for character in "Three red":
        second.take([ord(character)])
    first.take([*map(ord, " red blocks")])
    connection.set(stop_key("r", 1), 1)
    wait_until(lambda: first.stop_asked() and second.stop_asked())
    first.end("Three red blocks")
    second.take([*map(ord, " blocks")])
    second.end("Three red blocks")
    assert read_along(connection) == "Three red blocks"


def test_a_stop_is_seen_although_no_token_comes(streams: TokenStreams, connection: redis.Redis) -> None:
    stream, other = streams.open("r", 1, as_text), streams.open("r", 2, as_text)
    assert not stream.stop_asked()
    connection.set(stop_key("r", 1), 1)
    wait_until(stream.stop_asked)
    assert not other.stop_asked()
    stream.end("")
    other.end("")


class ShakyTokens:
    """Fails every second call; every second of these failures has done its work all the same."""

    def __init__(self) -> None:
        self.increments: list[Increment] = []
        self._calls = 0

    def published(self, run: str, index: int) -> Published:  # noqa: ARG002 - the protocol's
        self._fail_at_times()
        text = "".join(increment.text for increment in self.increments)
        return Published(text, any(increment.ends for increment in self.increments))

    def publish(self, increments: Sequence[Increment]) -> list[bool]:
        self._calls += 1
        if self._calls % 4 != 1:
            self.increments += increments
        if self._calls % 2:
            raise StoreAwayError("TimeoutError")
        return [False] * len(increments)

    def _fail_at_times(self) -> None:
        self._calls += 1
        if self._calls % 3 == 0:
            raise StoreAwayError("ConnectionError")

    def close(self) -> None:
        pass


def test_nothing_is_published_twice_when_the_store_is_shaky() -> None:
    tokens = ShakyTokens()
    streams = TokenStreams(tokens)
    stream = streams.open("r", 1, as_text)
    for character in "Three red blocks":
        stream.take([ord(character)])
        time.sleep(0.02)
    stream.end("Three red blocks")
    wait_until(lambda: any(increment.ends for increment in tokens.increments))
    streams.close()
    assert "".join(increment.text for increment in tokens.increments) == "Three red blocks"
    assert [increment.ends for increment in tokens.increments].count(True) == 1


def test_tokens_never_wait_for_the_store() -> None:
    streams = TokenStreams(TokenStore("redis://127.0.0.1:1/0"))
    stream = streams.open("r", 1, as_text)
    stream.take([1, 2])
    stream.end("ab")
    streams.close()


# Through the service


def job(question: str = "four", **parameters: Any) -> Job:
    words = {"id": "q", "messages": [{"role": "user", "content": question}]}
    asked = {"run": "r", "index": 1, "questions": [words], "parameters": parameters, "stream": True}
    return Job.model_validate(asked)


LOOKING = (Question(id="q", messages="What is this?"),)


def no_image(_: Job) -> bytes:
    raise AssertionError("there is no image")


def outcome_of(service: Service[Any], asked: Job) -> Any:
    (result,) = service.answer(asked).results
    return result.outcome


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (Refusal(FailureCode.IMAGE_NOT_FOUND, "gone"), False),
        (MemoryError(), False),
        (EngineStoppedError(), True),
        (Requeue(), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_stream_ends_whatever_happens_unless_another_worker_goes_on(
    streams: TokenStreams, connection: redis.Redis, error: BaseException, goes_on: bool
) -> None:
    def fetch(_: Job) -> bytes:
        raise error

    service = Service(FakeModel(), FakeEngine(), fetch, Decoder(LIMITS), streams=streams)
    asked = job().model_copy(update={"image": ImagePath.of("a.png"), "questions": LOOKING})
    with nullcontext() if isinstance(error, Refusal) else pytest.raises(type(error)):
        service.answer(asked)
    service.close()
    other = streams.open("r", 2, as_text)
    other.end("")
    read_along(connection, tokens_key("r", 2))
    assert bool(connection.exists(KEY)) != goes_on


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LlavaModel:
    return LlavaModel.load(tiny_folder, "CPU", EXACT)


@pytest.fixture
def service(model: LlavaModel, streams: TokenStreams) -> Iterator[Service[Any]]:
    engine = Engine(stateful(model.language_xml), model.embed, Limits(10**9, rows=4, step_tokens=2000))
    made = Service(model, engine, no_image, Decoder(LIMITS), streams=streams)
    yield made
    made.close()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stop", [(), ("e", "th")], ids=["to the end", "to a stop text"])
def test_what_a_model_says_is_read_along_to_the_letter(
    service: Service[Any], connection: redis.Redis, seed: int, stop: tuple[str, ...]
) -> None:
    asked = job("What is this?", max_new_tokens=60, do_sample=True, temperature=3.0, seed=seed, stop=stop)
    outcome = outcome_of(service, asked)
    assert isinstance(outcome, Answer), outcome
    assert read_along(connection) == outcome.text
    assert connection.xlen(KEY) > 1 or not outcome.text


def test_a_model_that_is_asked_to_stop_has_said_what_it_said(
    service: Service[Any], connection: redis.Redis
) -> None:
    asked = job("What is this?", max_new_tokens=400, min_new_tokens=400, do_sample=True, seed=1)
    with ThreadPoolExecutor(1) as thread:
        answering = thread.submit(outcome_of, service, asked)
        wait_until(lambda: connection.xlen(KEY))
        connection.set(stop_key("r", 1), 1)
        outcome = answering.result()
    assert isinstance(outcome, Answer), outcome
    assert outcome.finish_reason == "stop"
    assert 0 < outcome.completion_tokens < 400
    assert read_along(connection) == outcome.text
