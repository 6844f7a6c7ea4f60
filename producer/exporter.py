"""Exports metrics of queues, store and workers to Prometheus, read at each scrape; changes nothing."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import redis
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from contract.store import DEAD_LETTERS_KEY, results_key
from producer.queue import QUEUES, UNACKED_KEY
from producer.workers import live_workers

NAMESPACE: Final = "captionmill"
SCANS: Final = 10
SCAN_COUNT: Final = 1000
"""Keys per scan. A scrape looks at about 10,000 keys for new runs; the next scrape goes on from there."""
MOST_RUNS: Final = 200
TIMEOUT_S: Final = 5.0
"""Seconds to wait for a reply; Prometheus itself gives up after 10 s."""


class StoreCollector(Collector):
    """Asks the server at each collect(). Without an answer, `up` is 0 and the other metrics are left out."""

    def __init__(self, redis_url: str) -> None:
        """Raises ValueError for an invalid Redis URL."""
        self._redis: redis.Redis = redis.Redis.from_url(
            redis_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        )
        self._runs: set[str] = set()
        self._cursor = 0

    def describe(self) -> Iterator[Metric]:
        """The metrics' names; does not ask the server."""
        yield from _families().values()

    def collect(self) -> Iterator[Metric]:
        families = _families()
        try:
            self._fill(families)
            families["up"].add_metric([], 1.0)
        except redis.RedisError:
            families = {"up": _families()["up"]}
            families["up"].add_metric([], 0.0)
        yield from families.values()

    def _fill(self, families: dict[str, GaugeMetricFamily]) -> None:
        self._look_for_runs()
        runs = list(self._runs)
        with self._redis.pipeline(transaction=False) as asked:
            for key in QUEUES.values():
                asked.llen(key)
            for run in runs:
                asked.xlen(results_key(run))
            for run in runs:
                asked.exists(results_key(run))
            asked.hlen(UNACKED_KEY)
            asked.llen(DEAD_LETTERS_KEY)
            asked.info("memory")
            *replies, unacked, dead_letters, memory = asked.execute()
        lengths, records = replies[: len(QUEUES)], replies[len(QUEUES) : len(QUEUES) + len(runs)]
        there = replies[len(QUEUES) + len(runs) :]
        for queue, length in zip(QUEUES, lengths, strict=True):
            families["queue_messages"].add_metric([queue], length)
        for run, waiting, exists in zip(runs, records, there, strict=True):
            if exists:
                families["result_records"].add_metric([run], waiting)
            else:
                self._runs.discard(run)
        workers = live_workers(self._redis)
        for name, value in (
            ("unacked_messages", unacked),
            ("dead_letters", dead_letters),
            ("store_memory_bytes", memory["used_memory"]),
            ("store_memory_limit_bytes", memory["maxmemory"]),
            ("workers_live", len(workers)),
            ("workers_slots", sum(worker.slots for worker in workers)),
        ):
            families[name].add_metric([], value)

    def _look_for_runs(self) -> None:
        """Scan further keys, from where the last scrape ended."""
        before, after = results_key("*").split("*")
        for _ in range(SCANS):
            reply: Any = self._redis.scan(
                self._cursor, match=results_key("*"), count=SCAN_COUNT, _type="stream"
            )
            self._cursor, keys = reply
            for key in keys:
                run = key.decode("utf-8", "replace").removeprefix(before).removesuffix(after)
                if len(self._runs) < MOST_RUNS:
                    self._runs.add(run)
            if self._cursor == 0:
                break


def serve(redis_url: str, host: str, port: int) -> Callable[[], None]:
    """Answer scrapes in a thread; returns what ends it. Raises OSError, and ValueError for the URL."""
    registry = CollectorRegistry()
    registry.register(StoreCollector(redis_url))
    server, thread = start_http_server(port, host, registry)

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return close


def _families() -> dict[str, GaugeMetricFamily]:
    """Name without the prefix → empty metric family."""
    described = {
        "up": ("1 if the server answered this scrape, else 0", []),
        "queue_messages": ("Messages that wait, by queue", ["queue"]),
        "unacked_messages": ("Messages that workers have taken and not acknowledged", []),
        "result_records": (f"Records not yet collected, of {MOST_RUNS} runs at most", ["run"]),
        "dead_letters": ("Messages that belong to no job", []),
        "store_memory_bytes": ("Memory that the server uses", []),
        "store_memory_limit_bytes": ("Its maxmemory; 0 is none", []),
        "workers_live": ("Workers that reported lately", []),
        "workers_slots": ("Bulk jobs that these take at once", []),
    }
    return {
        name: GaugeMetricFamily(f"{NAMESPACE}_{name}", help_text, labels=labels)
        for name, (help_text, labels) in described.items()
    }
