"""Which jobs of a run are with a live worker, from what workers note in the store."""

from typing import Any, NamedTuple

import redis

from contract.store import SUSPECTED, holders_key
from producer.workers import live_workers


class Holders(NamedTuple):
    """Indices of jobs that were taken and have no record."""

    live: frozenset[int]
    """With a worker that is alive."""
    dead: frozenset[int]
    """With one that is not."""


def holders(connection: redis.Redis, run: str) -> Holders:
    """Jobs that wait in the suspect queue are in neither."""
    taken: Any = connection.hgetall(holders_key(run))
    workers = {worker.worker.encode() for worker in live_workers(connection)} if taken else set()
    live = {int(index) for index, worker in taken.items() if worker in workers}
    waiting = {int(index) for index, worker in taken.items() if worker == SUSPECTED.encode()}
    return Holders(frozenset(live), frozenset(map(int, taken)) - live - waiting)
