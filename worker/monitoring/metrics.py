"""What a worker counts and measures, under Prometheus' names; knows neither who reads it nor how.

`python -m worker.monitoring.metrics` prints the table of docs/operations.md.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, Protocol, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from contract.answer import Answer, JobResult
from contract.failure import FailureCode
from worker.lane import Lane

NAMESPACE: Final = "captionmill"
FAST_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Bucket bounds in seconds of what takes milliseconds on a small model, tens of seconds on a large one."""
SLOW_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
ROWS: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128)

Outcome = Literal["answered", "failed", "dropped", "given_back", "dead_letter"]

# Otherwise each counter has a second series, of its age.
disable_created_metrics()  # type: ignore[no-untyped-call]


class EngineGauges(Protocol):
    """Values that are read from the engine at every scrape: worker.engine's Engine."""

    @property
    def rows(self) -> int: ...
    @property
    def kv_bytes(self) -> int: ...
    @property
    def prefix_hits(self) -> int: ...


class Metrics(Collector):
    """One per process; any thread may call its methods.

    Fulfils worker.engine's EngineObserver and worker.llava's ImageObserver.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.jobs = self._counter("jobs", "Jobs by how their stay here ended", "outcome")
        self.questions = self._counter("questions", "Questions by 'answer' or their failure's code", "code")
        self.images = self._counter("images", "Images whose features a job was given")
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of answered questions")
        self.completion_tokens = self._counter("completion_tokens", "Tokens of answers, first ones only")
        self.image_cache_hits = self._counter("image_cache_hits", "Images whose features were kept")
        self.image_cache_misses = self._counter("image_cache_misses", "Images that were encoded")
        self.attempts = self._counter("attempts", "Jobs begun, by the queue they came from", "queue")
        self.suspects = self._counter("suspects", "Jobs set apart as in flight when a process died")
        self.in_flight = self._gauge("jobs_in_flight", "Jobs under way, by queue", "queue")
        self.slots = self._gauge("slots", "Bulk jobs taken at once")
        self.rows_active = self._gauge("rows_active", "Rows in the engine's batch")
        self.kv_cache = self._gauge("kv_cache_bytes", "Set aside for the requests in the batch")
        self.kv_cache_limit = self._gauge("kv_cache_limit_bytes", "Most that is ever set aside")
        self.ready = self._gauge("ready", "1 while /readyz says yes, else 0")
        self.fetch = self._histogram("fetch_seconds", "Getting an image file's bytes", SLOW_S)
        self.decode_image = self._histogram("decode_image_seconds", "Image file to RGB image", FAST_S)
        self.vision = self._histogram("vision_seconds", "Vision model, without the wait for its turn", FAST_S)
        self.prefill = self._histogram("prefill_seconds", "Steps that took in prompts", FAST_S)
        self.decode_step = self._histogram("decode_step_seconds", "Steps of one position a row", FAST_S)
        self.time_to_first_token = self._histogram(
            "time_to_first_token_seconds", "A request's submission to the engine to its first token", SLOW_S
        )
        self.job = self._histogram("job_seconds", "A job's stay in the worker", SLOW_S)
        self.rows_per_step = self._histogram("rows_per_step", "Rows that went through a step together", ROWS)
        self.build = Info(
            "build", "What runs here: model, device, version", namespace=NAMESPACE, registry=self.registry
        )
        self._engine: EngineGauges | None = None
        self.registry.register(self)
        self._begin_at_zero()

    def read_engine(self, engine: EngineGauges, kv_limit_bytes: int) -> None:
        """Read rows and bytes from `engine` at every scrape."""
        self.rows_active.set_function(lambda: engine.rows)
        self.kv_cache.set_function(lambda: engine.kv_bytes)
        self.kv_cache_limit.set(kv_limit_bytes)
        self._engine = engine

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The counts that the engine keeps itself, for the registry."""
        hits = 0 if self._engine is None else self._engine.prefix_hits
        yield CounterMetricFamily(
            f"{NAMESPACE}_prefix_cache_hits", "Requests that began as a fork of another's prefix", value=hits
        )

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    # Called by the engine and the model

    def stepped(self, seconds: float, rows: int, *, prefill: bool) -> None:
        (self.prefill if prefill else self.decode_step).observe(seconds)
        self.rows_per_step.observe(rows)

    def first_token(self, seconds: float) -> None:
        self.time_to_first_token.observe(seconds)

    def decoded(self, seconds: float) -> None:
        self.decode_image.observe(seconds)

    def encoded(self, seconds: float) -> None:
        self.vision.observe(seconds)

    def served(self, *, kept: bool) -> None:
        self.images.inc()
        (self.image_cache_hits if kept else self.image_cache_misses).inc()

    # Called for jobs

    @contextmanager
    def job_under_way(self, lane: Lane) -> Iterator[None]:
        """Count and time one attempt at a job."""
        self.attempts.labels(lane).inc()
        with self.in_flight.labels(lane).track_inprogress(), self.job.time():
            yield

    def ended(self, outcome: Outcome) -> None:
        self.jobs.labels(outcome).inc()

    def recorded(self, result: JobResult) -> None:
        """Count a record that was the job's first."""
        for one in result.results:
            if isinstance(one.outcome, Answer):
                self.questions.labels("answer").inc()
                self.prompt_tokens.inc(one.outcome.prompt_tokens)
                self.completion_tokens.inc(one.outcome.completion_tokens)
            else:
                self.questions.labels(one.outcome.code.value).inc()
        answered = all(isinstance(one.outcome, Answer) for one in result.results)
        self.ended("answered" if answered else "failed")

    # Made once

    def _begin_at_zero(self) -> None:
        """Begin series at 0: one that appears with its first event has no rate at that event."""
        for outcome in get_args(Outcome):
            self.jobs.labels(outcome)
        for lane in Lane:
            self.attempts.labels(lane)
            self.in_flight.labels(lane)
        for code in ("answer", *(code.value for code in FailureCode)):
            self.questions.labels(code)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, namespace=NAMESPACE, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, namespace=NAMESPACE, registry=self.registry)

    def _histogram(self, name: str, meaning: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(name, meaning, namespace=NAMESPACE, registry=self.registry, buckets=bounds)


def table(registry: CollectorRegistry) -> str:
    """The registry's metrics as a Markdown table: name, type, labels, meaning."""
    lines = ["| Name | Type | Labels | Meaning |", "|---|---|---|---|"]
    for family in sorted(registry.collect(), key=lambda family: family.name):
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        lines.append(f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Metrics().registry))
