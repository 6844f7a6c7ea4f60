"""Adds counts, times and the log's context to what answers a job and keeps its record; decides nothing."""

from collections.abc import Callable

from contract.answer import JobResult
from contract.job import Job
from worker.delivery.attempts import Answers
from worker.delivery.results import Begun, ResultStore
from worker.errors import Cancelled, Requeue
from worker.lane import Lane
from worker.monitoring.logs import about_job
from worker.monitoring.metrics import Metrics


class MeasuredService:
    """A service whose jobs are counted and named in every log line while they run."""

    def __init__(self, service: Answers, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics

    @property
    def model_id(self) -> str:
        return self._service.model_id

    def answer(self, job: Job, lane: Lane = Lane.BULK, wanted: Callable[[], bool] | None = None) -> JobResult:
        with about_job(job.run, job.index), self._metrics.job_under_way(lane):
            try:
                return self._service.answer(job, lane, wanted)
            except Requeue:
                self._metrics.ended("given_back")
                raise
            except Cancelled:
                self._metrics.ended("dropped")
                raise


class MeasuredStore(ResultStore):
    """A store whose records are counted, each once; a job's second record counts as dropped."""

    def __init__(self, redis_url: str, metrics: Metrics) -> None:
        super().__init__(redis_url)
        self._metrics = metrics

    def begin(self, worker: str, run: str, index: int, most: int) -> Begun:
        begun = super().begin(worker, run, index, most)
        if begun.attempt == 0:
            self._metrics.ended("dropped")
        return begun

    def suspect(self, run: str, index: int) -> None:
        super().suspect(run, index)
        self._metrics.suspects.inc()

    def write(self, result: JobResult) -> bool:
        first = super().write(result)
        if first:
            self._metrics.recorded(result)
        else:
            self._metrics.ended("dropped")
        return first

    def keep_dead_letter(self, worker: str, reason: str, message: object) -> None:
        super().keep_dead_letter(worker, reason, message)
        self._metrics.ended("dead_letter")


def timed_fetch(fetch: Callable[[Job], bytes], metrics: Metrics) -> Callable[[Job], bytes]:
    """`fetch` with its time measured, refusals included."""

    def measured(job: Job) -> bytes:
        with metrics.fetch.time():
            return fetch(job)

    return measured
