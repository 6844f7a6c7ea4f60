"""Takes a snapshot of the server: queues, workers, records, memory; changes nothing there."""

import time
from typing import Any, Final

import redis
from pydantic import BaseModel, ConfigDict, Field

from contract.store import DEAD_LETTERS_KEY, WORKER_SILENT_S, WORKERS_KEY, WorkerRecord, results_key
from producer.queue import QUEUES, UNACKED_KEY
from producer.workers import read_reports

SCAN_COUNT: Final = 1000
MOST_SCANS: Final = 50
"""Number of scans of a snapshot; each takes the server under a millisecond."""
MOST_RUNS: Final = 200


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class WorkerState(_Value):
    """A worker as it last reported."""

    worker: str
    model: str
    device: str
    slots: int
    age_s: float = Field(description="since its last report; clocks of machines are taken to agree")
    up_s: float
    alive: bool
    image_roots: tuple[str, ...] = Field(description="folders it reads images from")


class RunRecords(_Value):
    """A run's stream of records."""

    waiting: int = Field(description="that the producer has not fetched")
    written: int = Field(description="since the stream exists")


class ServerSnapshot(_Value):
    """The server's state, over all runs and producers."""

    time: float
    queued: dict[str, int] = Field(description="messages that wait, by queue; several jobs may be in one")
    unacked: int = Field(description="messages that workers have taken and not acknowledged")
    workers: tuple[WorkerState, ...] = Field(description="live ones and those that died without withdrawing")
    unreadable_workers: int = Field(description="reports of another version")
    runs: dict[str, RunRecords]
    all_runs: bool = Field(description="false where the server holds too many keys to look at each")
    dead_letters: int
    memory_bytes: int
    memory_limit_bytes: int = Field(description="0 is none")

    def live_workers(self) -> list[WorkerState]:
        return [one for one in self.workers if one.alive]


class Rates(_Value):
    """Changes per second between two snapshots."""

    queued: dict[str, float]
    records: float = Field(description="jobs that got their record")


def look(connection: redis.Redis) -> ServerSnapshot:
    """Take a snapshot. Raises redis.RedisError."""
    now = time.time()
    with connection.pipeline(transaction=False) as asked:
        for name in QUEUES.values():
            asked.llen(name)
        asked.hlen(UNACKED_KEY)
        asked.llen(DEAD_LETTERS_KEY)
        asked.hgetall(WORKERS_KEY)
        asked.info("memory")
        *lengths, unacked, dead_letters, reports, memory = asked.execute()
    records = read_reports(reports)
    runs, all_runs = _runs(connection)
    return ServerSnapshot(
        time=now,
        queued=dict(zip(QUEUES, lengths, strict=True)),
        unacked=unacked,
        workers=tuple(_worker(record, now) for record in records),
        unreadable_workers=len(reports) - len(records),
        runs=runs,
        all_runs=all_runs,
        dead_letters=dead_letters,
        memory_bytes=memory["used_memory"],
        memory_limit_bytes=memory["maxmemory"],
    )


def rates(before: ServerSnapshot, now: ServerSnapshot) -> Rates:
    seconds = max(now.time - before.time, 1e-3)
    written = 0
    for run, records in now.runs.items():
        earlier = before.runs.get(run)
        # A stream that is younger than the earlier snapshot got all its records since.
        known = earlier.written if earlier and earlier.written <= records.written else 0
        written += records.written - known
    return Rates(
        queued={name: (length - before.queued[name]) / seconds for name, length in now.queued.items()},
        records=written / seconds,
    )


def _worker(record: WorkerRecord, now: float) -> WorkerState:
    age_s = max(0.0, now - record.time)
    return WorkerState(
        worker=record.worker,
        model=record.model,
        device=record.device,
        slots=record.slots,
        age_s=age_s,
        up_s=max(0.0, record.time - record.started),
        alive=age_s < WORKER_SILENT_S,
        image_roots=record.image_roots,
    )


def _runs(connection: redis.Redis) -> tuple[dict[str, RunRecords], bool]:
    """Run → its records, and whether these are all runs."""
    prefix, suffix = results_key("*").split("*")
    keys: list[bytes] = []
    cursor = 0
    for _ in range(MOST_SCANS):
        reply: Any = connection.scan(cursor, match=f"{prefix}*{suffix}", count=SCAN_COUNT)
        cursor, found = reply
        keys += found
        if not cursor or len(keys) > MOST_RUNS:
            break
    keys = list(dict.fromkeys(keys))
    with connection.pipeline(transaction=False) as asked:
        for key in keys[:MOST_RUNS]:
            asked.xinfo_stream(key)
        replies: list[Any] = asked.execute(raise_on_error=False)
    runs = {}
    for key, reply in zip(keys, replies, strict=False):
        if isinstance(reply, redis.ResponseError):
            continue  # finished meanwhile
        run = key.decode().removeprefix(prefix).removesuffix(suffix)
        fields = {_text(name): value for name, value in reply.items()}
        runs[run] = RunRecords(waiting=fields["length"], written=fields["entries-added"])
    return runs, not cursor and len(keys) <= MOST_RUNS


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode()
