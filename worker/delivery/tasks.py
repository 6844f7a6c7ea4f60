"""The only Celery task, which passes jobs on; knows nothing of how a job is answered."""

from celery.exceptions import Reject

from contract.broker import TASK_NAME
from worker.app import app, loaded_worker
from worker.delivery.attempts import MessageOutcome


@app.task(name=TASK_NAME, typing=False)  # type: ignore[untyped-decorator]
def answer_jobs(*jobs: object) -> None:
    """Takes the jobs that worker.delivery.envelope wrote. Raises only Reject, which puts the message back."""
    if loaded_worker().attempts.take(jobs) is MessageOutcome.REQUEUE:
        raise Reject("this worker does not answer it", requeue=True)
