"""Moves a run's records from the result store into the ledger, each once; knows nothing of sending."""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import redis

from contract.answer import Answer, JobResult
from contract.failure import Failure, FailureCode
from contract.store import RECORD_FIELD, attempts_key, cancelled_key, done_key, holders_key, results_key
from producer.errors import ProducerError
from producer.first_jobs import FirstJobs
from producer.ledger import Ledger, Result
from producer.question_planner import Flagged
from producer.streams import read_streams

BATCH: Final = 1000
CRASHES_OF: Final = 50
"""Number of the latest jobs that are checked for crashes."""
CRASHES_SHARE: Final = 0.8
"""Share of them that stops the run if they crashed their workers."""
LEAST_CRASHES: Final = 5
CANCELLED_KEPT_S: Final = 7 * 24 * 3600


class WorkersCrashError(ProducerError):
    """The run has stopped because its jobs kill every worker; the message says what to do."""


class Collector:
    """One per ledger at a time. A crash at any point loses no record and doubles none."""

    def __init__(
        self,
        connection: redis.Redis,
        ledger: Ledger,
        run: str,
        first_jobs: FirstJobs | None = None,
        on_flag: Mapping[Flagged, Mapping[str, Any]] | None = None,
    ) -> None:
        """`first_jobs` sees each record; `on_flag` is as for producer.feed's Feeder."""
        self._on_flag = on_flag or {}
        self._redis = connection
        self._ledger = ledger
        self._run = run
        self._first_jobs = first_jobs
        self._key = results_key(run)
        self.tokens = 0
        """Number of generated tokens in the records that this process has collected."""
        self.failures = 0
        """Number of failed questions in them."""
        self.job_s: float | None = None
        """Mean seconds that a worker took for each of the latest jobs; None before the first."""
        self._crashed: deque[bool] = deque(maxlen=CRASHES_OF)

    def collect(self, block_ms: int) -> list[int]:
        """Wait up to `block_ms` for records, write them to the ledger, then delete them from the store.

        Returns the indices of the jobs that these records end. 0 does not wait.
        """
        # From the beginning: records that are in the ledger were deleted, or are recognised by their index.
        records = list(read_streams(self._redis, {self._key: "0-0"}, block_ms or None, BATCH))
        if not records:
            return []
        results: list[Result] = []
        jobs: list[int] = []
        seconds = 0.0
        for record in records:
            parsed = JobResult.model_validate_json(record.fields[RECORD_FIELD])
            jobs.append(parsed.index)
            seconds += parsed.seconds
            self._crashed.append(_is_crash(parsed))
            if self._first_jobs is not None:
                self._first_jobs.note(parsed)
            results += [
                Result(parsed.index, one.question, one.outcome, parsed.model) for one in parsed.results
            ]
        self.job_s = seconds / len(jobs)
        with self._ledger.transaction():
            fresh = self._ledger.record(results, jobs)
            for flag, changes in self._on_flag.items():
                self._ledger.retries.ask_flagged(flag, changes, jobs=fresh)
        milliseconds, _, sequence = records[-1].id.partition("-")
        self._redis.xtrim(self._key, minid=f"{milliseconds}-{int(sequence) + 1}", approximate=False)
        known = set(fresh)
        for one in results:
            if one.job in known:
                if isinstance(one.outcome, Answer):
                    self.tokens += one.outcome.completion_tokens
                else:
                    self.failures += 1
        return fresh

    def stop_if_workers_crash(self) -> None:
        """Raises WorkersCrashError if nearly all of the latest jobs killed their workers.

        Workers then drop the queued jobs, and all attempts are forgotten before the run goes on.
        """
        if sum(self._crashed) < max(LEAST_CRASHES, CRASHES_SHARE * len(self._crashed)):
            return
        self._redis.set(cancelled_key(self._run), 1, ex=CANCELLED_KEPT_S)
        self._redis.delete(attempts_key(self._run), holders_key(self._run))
        raise WorkersCrashError(
            "Nearly every one of the latest jobs killed the worker that answered it alone, so the cause is "
            "the workers, not the jobs: look at their logs and model folder. Then go on with run --resume, "
            "and ask again what failed with retry --code crashed_worker."
        )

    def backlog(self) -> int:
        """Records in the store that are not in the ledger."""
        length: int = self._redis.xlen(self._key)
        return length

    def forget(self, keep_done_s: int) -> None:
        """After the last job: free the store, which refuses late redeliveries for `keep_done_s`."""
        self._redis.set(cancelled_key(self._run), 1, ex=keep_done_s)
        self._redis.delete(self._key, attempts_key(self._run), holders_key(self._run))
        self._redis.expire(done_key(self._run), keep_done_s)


def _is_crash(result: JobResult) -> bool:
    outcomes = [one.outcome for one in result.results]
    return any(
        isinstance(outcome, Failure) and outcome.code is FailureCode.CRASHED_WORKER for outcome in outcomes
    )
