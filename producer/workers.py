"""Reads which workers are alive, from their reports in the store; changes nothing."""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import redis
from pydantic import ValidationError

from contract.store import WORKER_SILENT_S, WORKERS_KEY, WorkerRecord


def live_workers(connection: redis.Redis) -> list[WorkerRecord]:
    """Workers that reported within WORKER_SILENT_S, by name. Assumes that the machines' clocks agree."""
    reports: Any = connection.hgetall(WORKERS_KEY)
    return [one for one in read_reports(reports) if time.time() - one.time < WORKER_SILENT_S]


def read_reports(reports: Mapping[bytes, bytes]) -> list[WorkerRecord]:
    """Workers' reports by name, without those of other versions, which cannot be read."""
    found = []
    for report in reports.values():
        with suppress(ValidationError):
            found.append(WorkerRecord.model_validate_json(report))
    return sorted(found, key=lambda record: record.worker)
