"""Foreign values in the store's keys: no message is requeued for ever, and memory stays bounded."""

import json
from typing import Any

import pytest
import redis

from contract.answer import JobResult, QuestionResult
from contract.failure import FailureCode, Refusal
from contract.job import MOST_JOBS, Job, Question
from contract.store import (
    DEAD_LETTERS_KEY,
    attempts_key,
    done_key,
    holders_key,
    image_key,
    results_key,
    tokens_key,
)
from tests.support.producer_driver import answer
from worker.delivery.attempts import Attempts
from worker.delivery.results import ResultStore
from worker.delivery.token_store import Increment, TokenStore
from worker.lane import Lane

RUN = "hostile"


class Service:
    """Answers at once. Obeys worker.delivery.attempts's Answers."""

    model_id = "m"

    def answer(self, job: Job, *_: object) -> JobResult:
        results = tuple(QuestionResult(question=one.id, outcome=answer("yes")) for one in job.questions)
        return JobResult(run=job.run, index=job.index, worker="w", model="m", seconds=0.1, results=results)


def message(run: str, index: int = 0) -> dict[str, Any]:
    job = Job(run=run, index=index, image=None, questions=(Question(id="q1", messages="What?"),))
    return job.model_dump(mode="json")


@pytest.mark.parametrize("lane", [Lane.BULK, Lane.SUSPECT])
@pytest.mark.parametrize("key", [results_key, done_key, attempts_key, holders_key])
def test_a_key_of_another_type_makes_a_dead_letter(
    redis_url: str, connection: redis.Redis, key: Any, lane: Lane
) -> None:
    """Of that run alone: the other jobs of the message, and later ones, are answered."""
    connection.sadd(key(RUN), "what nobody of ours puts there")
    passed_on: list[object] = []
    store = ResultStore(redis_url)
    attempts = Attempts(Service(), store, passed_on.append)
    for _ in range(2):
        attempts.take([message("good"), message(RUN), message("good", 1)], lane=lane)
    letters: Any = connection.lrange(DEAD_LETTERS_KEY, 0, -1)
    assert len(letters) == 2
    assert "a key of its run" in json.loads(letters[0])["reason"]
    assert connection.xlen(results_key("good")) == 2
    assert not passed_on
    store.close()


def test_an_image_and_a_stream_of_another_type(redis_url: str, connection: redis.Redis) -> None:
    store, tokens = ResultStore(redis_url), TokenStore(redis_url)
    connection.sadd(image_key(RUN, "abc"), "no image")
    with pytest.raises(Refusal) as refused:
        store.image(RUN, "abc", 100)
    assert refused.value.failure.code == FailureCode.IMAGE_UNREADABLE
    connection.sadd(tokens_key(RUN, 0), "no stream")
    told = [Increment(RUN, 0, "lost", False), Increment("good", 0, "read", True)]
    assert tokens.publish(told) == [False, False]
    assert connection.xlen(tokens_key("good", 0)) == 2
    store.close()
    tokens.close()


def test_an_index_takes_no_more_memory_than_a_run_may(redis_url: str, connection: redis.Redis) -> None:
    store = ResultStore(redis_url)
    attempts = Attempts(Service(), store, lambda _: None)
    attempts.take([message(RUN) | {"index": index} for index in (MOST_JOBS, 2**32 - 1, 2**63)])
    assert connection.llen(DEAD_LETTERS_KEY) == 3
    assert not connection.exists(done_key(RUN))
    attempts.take([message(RUN, MOST_JOBS - 1)])
    assert connection.strlen(done_key(RUN)) == 32 * 2**20
    store.close()
