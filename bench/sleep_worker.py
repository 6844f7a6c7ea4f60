"""`celery -A bench.sleep_worker worker`: the real worker with a sleep instead of a model.

It allows measurements with many workers on a small machine.
"""

import time

from contract.answer import Answer, JobResult, QuestionResult
from contract.job import Job
from worker.app import app, install
from worker.delivery.answering import Answering
from worker.delivery.requeue import Requeue
from worker.delivery.results import ResultStore
from worker.delivery.side_queue import SuspectQueue, side_queues
from worker.monitoring.announce import Announcer
from worker.service import WORKER
from worker.settings import load_settings

__all__ = ["app"]

MODEL = "sleeper"


class Sleep:
    """Obeys worker.delivery.answering's Answers. A job's first question is a number of seconds."""

    model_id = MODEL

    def __init__(self) -> None:
        self.draining = False

    def answer(self, job: Job, **_: object) -> JobResult:
        if self.draining:
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
            run=job.run, index=job.index, worker=WORKER, model=MODEL, seconds=seconds, results=results
        )


class Sleeper:
    """Obeys worker.app's Loaded."""

    description = MODEL

    def __init__(self) -> None:
        settings = load_settings()
        redis_url = settings.redis_url.get_secret_value()
        store = ResultStore(redis_url)
        self._service = Sleep()
        self.answering = Answering(self._service, store, SuspectQueue(redis_url).put)
        self._side_queues = side_queues(redis_url, self.answering.take, settings.interactive_slots)
        self._announcer = Announcer(store, MODEL, "CPU")

    def start(self, slots: int) -> None:
        self._announcer.start(slots, self.answering.held.look_after)
        for queue in self._side_queues:
            queue.start()

    def drain(self) -> None:
        self._service.draining = True
        for queue in self._side_queues:
            queue.drain()

    def close(self) -> None:
        for queue in self._side_queues:
            queue.close()
        self._announcer.close()


install(Sleeper())
