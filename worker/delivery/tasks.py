"""The only task: jobs in, their records written; knows nothing of how a job is answered."""

from celery.exceptions import Reject

from contract.broker import TASK_NAME
from worker.app import app, loaded_worker
from worker.delivery.answering import MessageOutcome


@app.task(name=TASK_NAME, typing=False)  # type: ignore[untyped-decorator]
def answer_jobs(*jobs: object) -> None:
    """Takes what worker.delivery.envelope makes of a message. Raises Reject alone, which puts it back."""
    if loaded_worker().answering.take(jobs) is MessageOutcome.REQUEUE:
        raise Reject("this worker does not answer it", requeue=True)
