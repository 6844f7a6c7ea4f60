"""`celery -A bench.sleep_worker worker`: the real worker with a sleep instead of a model.

It allows measurements with many workers on a small machine.
"""

import time

from contract.answer import Answer, JobResult, QuestionResult
from contract.job import Job
from worker.app import app, install
from worker.delivery.results import ResultStore
from worker.device_scheduler import DeviceScheduler
from worker.errors import Requeue
from worker.monitoring.monitor import Monitor
from worker.service import WORKER
from worker.settings import load_settings
from worker.worker import Parts, Worker

__all__ = ["app"]


class Sleep:
    """Obeys worker.worker's JobService. A job's first question is a number of seconds."""

    model_id = "sleep"

    def __init__(self) -> None:
        self._draining = False

    def answer(self, job: Job, *_: object) -> JobResult:
        if self._draining:
            raise Requeue
        seconds = float(str(job.questions[0].messages))
        time.sleep(seconds)
        outcome = Answer(
            text="slept",
            finish_reason="stop",
            prompt_tokens=700,
            completion_tokens=16,
            score=-0.25,
            mean_log_prob=-0.25,
        )
        results = tuple(QuestionResult(question=one.id, outcome=outcome) for one in job.questions)
        return JobResult(
            run=job.run, index=job.index, worker=WORKER, model=self.model_id, seconds=seconds, results=results
        )

    def drain(self) -> None:
        self._draining = True

    def close(self) -> None:
        """Nothing to end."""


settings = load_settings()
parts = Parts(
    service=Sleep(),
    store=ResultStore(settings.redis_url.get_secret_value()),
    monitor=Monitor(settings),
    device=DeviceScheduler(),
)
install(Worker(settings, parts))
