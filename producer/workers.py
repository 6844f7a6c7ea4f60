"""Reads which workers are alive, from their reports in the store; changes nothing."""

import time
from typing import Any

import redis
from pydantic import ValidationError

from contract.store import WORKER_SILENT_S, WORKERS_KEY, WorkerRecord


def live_workers(connection: redis.Redis) -> list[WorkerRecord]:
    """Workers that reported within WORKER_SILENT_S, by name. Assumes that the machines' clocks agree."""
    records: Any = connection.hgetall(WORKERS_KEY)
    live = []
    for text in records.values():
        try:
            record = WorkerRecord.model_validate_json(text)
        except ValidationError:
            continue  # a worker of another version
        if time.time() - record.time < WORKER_SILENT_S:
            live.append(record)
    return sorted(live, key=lambda record: record.worker)
