"""A worker without a model, as fast as Redis: takes messages and writes records once; decodes no image.

`python -m bench.stub_worker URL [count]`: with `count` it counts in the hash WORKED_KEY how often it works on
each job.
"""

import base64
import json
import sys
from typing import Any

import redis

from contract.answer import Answer, JobResult, QuestionResult
from contract.broker import JOB_QUEUE
from contract.job import Job
from contract.store import WRITE_ONCE, cancelled_key, done_key, record_keys

WORKED_KEY = "stub:worked"
"""Key of a hash: run/index → times that the job was begun."""
BATCH = 200
"""Messages taken at once."""


def read_message(message: bytes) -> list[dict[str, Any]]:
    """The jobs in a Celery message, as kombu puts it into a Redis list."""
    jobs: list[dict[str, Any]]
    jobs, _, _ = json.loads(base64.b64decode(json.loads(message)["body"]))
    return jobs


def result(job: Job) -> JobResult:
    outcomes = (
        QuestionResult(
            question=one.id,
            outcome=Answer(
                text=f"{one.messages} {job.index}",
                finish_reason="stop",
                prompt_tokens=700,
                completion_tokens=16,
                score=-0.25,
                mean_log_prob=-0.25,
            ),
        )
        for one in job.questions
    )
    return JobResult(
        run=job.run, index=job.index, worker="stub", model="stub", seconds=0.1, results=tuple(outcomes)
    )


def main(url: str, *, counts: bool) -> None:
    connection: Any = redis.Redis.from_url(url)
    write_once = connection.script_load(WRITE_ONCE)
    while True:
        taken = connection.rpop(JOB_QUEUE, BATCH)
        if not taken:
            waited = connection.brpop([JOB_QUEUE], timeout=1)
            taken = [waited[1]] if waited else []
        jobs = [Job.model_validate(job) for message in taken for job in read_message(message)]
        asking = connection.pipeline(transaction=False)
        for job in jobs:
            asking.getbit(done_key(job.run), job.index)
            asking.exists(cancelled_key(job.run))
        known = asking.execute() if jobs else []
        writing = connection.pipeline(transaction=False)
        seen: set[tuple[str, int]] = set()
        for job, done, cancelled in zip(jobs, known[::2], known[1::2], strict=True):
            if done or cancelled or (job.run, job.index) in seen:
                continue
            seen.add((job.run, job.index))
            if counts:
                writing.hincrby(WORKED_KEY, f"{job.run}/{job.index}", 1)
            keys = record_keys(job.run)
            writing.evalsha(write_once, len(keys), *keys, job.index, result(job).model_dump_json())
        writing.execute()


if __name__ == "__main__":
    main(sys.argv[1], counts=sys.argv[2:] == ["count"])
