"""Reads which jobs of a run a worker has, from the workers' notes in the store; changes nothing."""

from typing import Any, NamedTuple

import redis

from contract.store import SUSPECTED, holders_key
from producer.workers import live_workers


class Holders(NamedTuple):
    """Indices of jobs that a worker has taken and that have no record."""

    live: frozenset[int]
    """Their worker is alive."""
    dead: frozenset[int]
    """Their worker is not alive."""


def holders(connection: redis.Redis, run: str) -> Holders:
    """Jobs that are held now. Jobs in the suspect queue are in neither set."""
    taken: Any = connection.hgetall(holders_key(run))
    workers = {worker.worker.encode() for worker in live_workers(connection)} if taken else set()
    live = {int(index) for index, worker in taken.items() if worker in workers}
    waiting = {int(index) for index, worker in taken.items() if worker == SUSPECTED.encode()}
    return Holders(frozenset(live), frozenset(map(int, taken)) - live - waiting)
