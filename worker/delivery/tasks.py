"""The only task: jobs in, their records written; knows nothing of how a job is answered."""

import logging
import os
import signal

from celery.exceptions import Reject

from contract.broker import TASK_NAME
from worker.app import app, loaded_worker
from worker.engine.inbox import EngineStoppedError

log = logging.getLogger(__name__)


@app.task(name=TASK_NAME, typing=False)  # type: ignore[untyped-decorator]
def answer_jobs(*jobs: object) -> None:
    """Takes what worker.delivery.envelope makes of a message: whatever is no job ends as a dead letter.

    Raises Reject alone, which puts the message back: the worker ends, or the result store is away. Those of
    its jobs that have a record by then are dropped by whoever takes it next.
    """
    try:
        loaded_worker().answering.take(jobs)
    except BaseException as kept:  # noqa: BLE001 - anything but Reject would take the pool's slot with it
        if isinstance(kept, EngineStoppedError):
            # Without an engine this process would only turn messages round: drain, and let another one start.
            os.kill(os.getpid(), signal.SIGTERM)
        log.warning("a message goes back to the queue: %s", type(kept).__name__)
        raise Reject(type(kept).__name__, requeue=True) from None
