"""Writes each job's record to the result store exactly once and reads its notes of jobs; knows no model."""

import json
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import BusyLoadingError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.retry import Retry

from contract.answer import JobResult
from contract.failure import FailureCode, Refusal
from contract.store import (
    BEGIN,
    DEAD_LETTERS_KEY,
    GIVE_BACK,
    SUSPECTED,
    WORKER_SILENT_S,
    WORKERS_KEY,
    WRITE_ONCE,
    WorkerRecord,
    attempts_key,
    begin_keys,
    cancelled_key,
    done_key,
    holders_key,
    image_key,
    record_keys,
)
from worker.errors import StoreAwayError

RETRIES = 6
BACKOFF_CAP_S = 5.0
SOCKET_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
CONNECTIONS = 16
POOL_TIMEOUT_S = 30.0
DEAD_LETTER_MAX_CHARACTERS = 4096


def is_wrong_type(error: BaseException) -> bool:
    """Whether a key holds a foreign type, so that trying again does not help."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


class Begun(NamedTuple):
    """Result of contract.store's BEGIN: the attempt's number and the worker that held the job before."""

    attempt: int
    holder: str


class ResultStore:
    """One per process, shared by its threads.

    Calls are tried again with growing pauses, and raise redis.exceptions.RedisError when that does not help.
    """

    def __init__(self, redis_url: str, retries: int = RETRIES) -> None:
        errors: list[type[Exception]] = [BusyLoadingError, OutOfMemoryError, ReadOnlyError]
        pool = redis.BlockingConnectionPool.from_url(
            redis_url,
            max_connections=CONNECTIONS,
            timeout=POOL_TIMEOUT_S,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_keepalive=True,
            health_check_interval=10,
            retry=Retry(ExponentialWithJitterBackoff(cap=BACKOFF_CAP_S, base=0.1), retries),
            retry_on_error=errors,
        )
        self._redis: redis.Redis = redis.Redis(connection_pool=pool)
        self._write_once: Any = self._redis.register_script(WRITE_ONCE)
        self._begin: Any = self._redis.register_script(BEGIN)
        self._release: Any = self._redis.register_script(GIVE_BACK)

    def write(self, result: JobResult) -> bool:
        """Append the job's record to its run's stream. False: it had one already, and this one is dropped."""
        keys = record_keys(result.run)
        return bool(self._write_once(keys=keys, args=[result.index, result.model_dump_json()]))

    def is_wanted(self, run: str, index: int) -> bool:
        """Whether the job has no record yet and its run is not cancelled."""
        with self._redis.pipeline(transaction=False) as asked:
            asked.getbit(done_key(run), index)
            asked.exists(cancelled_key(run))
            return not any(asked.execute())

    def hold(self, worker: str, jobs: Iterable[tuple[str, int]]) -> None:
        """Note that the worker has taken these jobs and will begin them, except where another holds them."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for run, index in jobs:
                pipeline.hsetnx(holders_key(run), str(index), worker)
            pipeline.execute()

    def begin(self, worker: str, run: str, index: int, most: int) -> Begun:
        """Count an attempt at the job, unless it has had `most` attempts or nobody wants it."""
        attempt, holder = self._begin(keys=begin_keys(run), args=[index, worker, most])
        return Begun(attempt, holder.decode())

    def release(self, worker: str, run: str, index: int, *, begun: bool) -> None:
        """Note that the worker holds the job no longer; with `begun`, uncount its attempt."""
        keys = [attempts_key(run), holders_key(run)]
        self._release(keys=keys, args=[index, worker, int(begun)])

    def server_id(self) -> str | None:
        """Id of the server's process; None where this user may not ask or the server does not say."""
        try:
            info: Any = self._redis.info("server")
        except ResponseError:
            return None
        run_id: str | None = info.get("run_id")
        return run_id

    def held_by(self, worker: str, run: str) -> list[int]:
        """Indexes of the run's jobs that the store says the worker holds."""
        try:
            found: Any = self._redis.hgetall(holders_key(run))
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            return []
        return [
            int(index) for index, holder in found.items() if holder == worker.encode() and index.isdigit()
        ]

    def suspect(self, run: str, index: int) -> None:
        """Note that the job waits in the suspect queue."""
        self._redis.hset(holders_key(run), str(index), SUSPECTED)

    def holder(self, run: str, index: int) -> str:
        """The worker that holds the job; empty if none does."""
        found: Any = self._redis.hget(holders_key(run), str(index))
        return "" if found is None else found.decode()

    def is_alive(self, worker: str) -> bool:
        """Whether that worker has reported lately. Machines' clocks are assumed to agree."""
        record: Any = self._redis.hget(WORKERS_KEY, worker) if worker else None
        return record is not None and (
            time.time() - WorkerRecord.model_validate_json(record).time < WORKER_SILENT_S
        )

    def image(self, run: str, sha256: str, max_bytes: int) -> bytes:
        """The first `max_bytes` + 1 bytes of a stored image; empty if there is none.

        Raises Refusal for a key that holds something else, and StoreAwayError.
        """
        try:
            content: Any = self._redis.getrange(image_key(run, sha256), 0, max_bytes)
        except RedisError as error:
            if is_wrong_type(error):
                raise Refusal(
                    FailureCode.IMAGE_UNREADABLE,
                    f"The store holds no image under the key of {sha256}, but another type.",
                ) from None
            raise StoreAwayError(type(error).__name__) from error
        return bytes(content)

    def announce(self, record: WorkerRecord) -> None:
        """Publish the report of a live worker."""
        self._redis.hset(WORKERS_KEY, record.worker, record.model_dump_json())

    def withdraw(self, worker: str) -> None:
        """Remove the report of a worker that ends."""
        self._redis.hdel(WORKERS_KEY, worker)

    def keep_dead_letter(self, worker: str, reason: str, message: object) -> None:
        """Keep a message that can have no record, where an operator finds it."""
        letter = {"worker": worker, "reason": reason, "message": repr(message)[:DEAD_LETTER_MAX_CHARACTERS]}
        self._redis.rpush(DEAD_LETTERS_KEY, json.dumps(letter))

    def close(self) -> None:
        self._redis.close()
        self._redis.connection_pool.disconnect()
