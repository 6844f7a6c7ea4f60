"""Workers that report themselves in the store, for tests of its readers."""

import time

import redis

from contract.store import WORKERS_KEY, WorkerRecord


def announce(
    connection: redis.Redis,
    worker: str,
    model: str,
    *,
    slots: int = 2,
    age_s: float = 0.0,
    image_roots: tuple[str, ...] = (),
) -> None:
    now = time.time()
    record = WorkerRecord(
        worker=worker,
        model=model,
        device="CPU",
        slots=slots,
        time=now - age_s,
        started=now - 100,
        image_roots=image_roots,
    )
    connection.hset(WORKERS_KEY, worker, record.model_dump_json())
