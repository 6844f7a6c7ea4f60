"""A worker reports itself while it lives, also after its store was away."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from contract.store import WORKERS_KEY, WorkerRecord
from tests.support.processes import wait_until
from worker.delivery.results import ResultStore
from worker.monitoring.announce import Announcer
from worker.service import WORKER


@pytest.fixture
def store(redis_url: str) -> Iterator[ResultStore]:
    made = ResultStore(redis_url)
    yield made
    made.close()


def told(connection: redis.Redis) -> list[WorkerRecord]:
    records: Any = connection.hvals(WORKERS_KEY)
    return [WorkerRecord.model_validate_json(record) for record in records]


def test_from_start_to_close(store: ResultStore, connection: redis.Redis) -> None:
    announcer = Announcer(store, "a model", "GPU.1", [Path(os.fsdecode(b"/photos\xe9"))], every_s=0.02)
    announcer.start(slots=7)
    wait_until(lambda: told(connection))
    [first] = told(connection)
    assert (first.worker, first.model, first.device, first.slots) == (WORKER, "a model", "GPU.1", 7)
    assert first.image_roots == (r"/photos\xe9",)
    wait_until(lambda: told(connection)[0].time > first.time)
    assert told(connection)[0].started == first.started
    announcer.close()
    assert told(connection) == []


def test_again_after_the_store_refused(
    store: ResultStore, connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    connection.set(WORKERS_KEY, "no hash")
    announcer = Announcer(store, "a model", "CPU", every_s=0.02)
    announcer.start(slots=1)
    wait_until(lambda: "cannot be announced now" in caplog.text)
    connection.delete(WORKERS_KEY)
    wait_until(lambda: told(connection))
    connection.set(WORKERS_KEY, "no hash")
    announcer.close()
    assert "cannot be withdrawn" in caplog.text


def test_one_that_was_not_started_closes(store: ResultStore) -> None:
    Announcer(store, "a model", "CPU").close()
