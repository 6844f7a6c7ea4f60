"""Stops a run whose first jobs all fail for one reason, as the others would too; sends no job."""

from typing import Final

from contract.answer import JobResult
from contract.failure import Failure, FailureCode
from producer.errors import ProducerError
from producer.ledger import LedgerReader
from producer.remedies import HIT_EVERY_ROW, FailedRow, hits_every_row

FIRST: Final = 16
"""Number of failed jobs that stop a run."""
LEAST: Final = 4
"""Number of failed jobs that stop a run whose every job has failed."""


class FirstJobsFailError(ProducerError):
    """The run has stopped because its first jobs all failed for one reason; the message says what to do."""

    def __init__(self, code: FailureCode, jobs: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.jobs = jobs


class FirstJobs:
    """Watches the records of a run until one of them shows that not every job fails."""

    def __init__(self, ledger: LedgerReader, *, watched: bool = True) -> None:
        """A run goes on regardless of failures if its folder has any answer, or if it is not `watched`."""
        self._ledger = ledger
        self._jobs = 0
        self._code: FailureCode | None = None
        self.undecided = watched and not ledger.has_answers()
        """Until this is False, failures are not written to outputs."""

    def note(self, record: JobResult) -> None:
        if not self.undecided:
            return
        codes = {one.outcome.code if isinstance(one.outcome, Failure) else None for one in record.results}
        code = codes.pop() if len(codes) == 1 else None
        if code not in HIT_EVERY_ROW or self._code not in (None, code):
            self.undecided = False
            return
        self._code = code
        self._jobs += 1

    def decide(self, *, at_end: bool) -> None:
        """Raises FirstJobsFailError if enough jobs have failed; at the run's end, LEAST are enough."""
        if not self.undecided:
            return
        if self._code is not None and self._jobs >= (LEAST if at_end else FIRST):
            if hits_every_row(
                [FailedRow.of(row, why) for row, why in self._ledger.failed(self._code, FIRST)]
            ):
                raise FirstJobsFailError(self._code, self._jobs)
            self.undecided = False
        elif at_end:
            self.undecided = False
