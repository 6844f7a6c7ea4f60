"""From a delivered message to one record in the store, whatever happens; knows no Celery and no model."""

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from pydantic import BaseModel, ValidationError

from contract.answer import EVERY_QUESTION, JobResult, QuestionResult
from contract.failure import Failure, FailureCode
from contract.job import JOB_VERSION, Job, JobIndex, RunId
from worker.engine.loop import EngineStoppedError
from worker.given_back import GivenBack
from worker.service import WORKER, internal_error

log = logging.getLogger(__name__)

COMPLAINTS_SHOWN: Final = 3


class Answers(Protocol):
    """What answers a job: worker.service's Service."""

    @property
    def model_id(self) -> str: ...
    def answer(self, job: Job, *, urgent: bool = False) -> JobResult: ...


class Records(Protocol):
    """Where records go: worker.results' ResultStore."""

    def is_wanted(self, run: str, index: int) -> bool: ...
    def write(self, result: JobResult) -> bool: ...
    def keep_dead_letter(self, worker: str, reason: str, message: object) -> None: ...


class Address(BaseModel):
    """The least a message must tell so that a record can be written for it."""

    run: RunId
    index: JobIndex


class Answering:
    """Turns each message into a record, a dead letter or a job given back."""

    def __init__(self, service: Answers, store: Records) -> None:
        self._service = service
        self._store = store

    def take(self, message: object, *, urgent: bool = False) -> None:
        """Return when the message's record, or its dead letter, is in the store, or nobody wants one.

        Nobody does where there is a record already, or the run is cancelled. An urgent job is served before
        others. Raises GivenBack when the worker drains, EngineStoppedError when it can generate no more, and
        whatever the store raises when it cannot be read or written to: the message must then go back to the
        queue.
        """
        address = _address(message)
        if address is None:
            log.error("a message that tells no job is kept as a dead letter")
            self._store.keep_dead_letter(WORKER, "the message has no valid run and index", message)
            return
        if not self._store.is_wanted(address.run, address.index):
            log.info("run %s job %d is answered or cancelled; it is dropped", address.run, address.index)
            return
        assert isinstance(message, Mapping), "it has an address"
        result = self._result(address, message, urgent)
        if not self._store.write(result):
            log.info("run %s job %d had its record already; this one is dropped", result.run, result.index)

    def _result(self, address: Address, message: Mapping[str, Any], urgent: bool) -> JobResult:
        try:
            return self._service.answer(Job.model_validate(message), urgent=urgent)
        except (GivenBack, EngineStoppedError):
            raise
        except ValidationError as invalid:
            return self._failed(address, message, _refused(message, invalid))
        except BaseException as bug:
            # Also MemoryError and SystemExit: one that leaves a Celery task takes the pool's slot with it.
            log.exception("run %s job %d: a bug", address.run, address.index)
            return self._failed(address, message, internal_error(bug))

    def _failed(self, address: Address, message: Mapping[str, Any], failure: Failure) -> JobResult:
        return JobResult(
            run=address.run,
            index=address.index,
            worker=WORKER,
            model=self._service.model_id,
            seconds=0.0,
            results=tuple(QuestionResult(question=q, outcome=failure) for q in _question_ids(message)),
        )


def _address(message: object) -> Address | None:
    """None: the message does not even tell which job it is."""
    if not isinstance(message, Mapping):
        return None
    try:
        return Address.model_validate({"run": message.get("run"), "index": message.get("index")})
    except ValidationError:
        return None


def _refused(message: Mapping[str, Any], invalid: ValidationError) -> Failure:
    if message.get("version", JOB_VERSION) != JOB_VERSION:
        return Failure(
            code=FailureCode.UNSUPPORTED_VERSION,
            message=f"The job has version {message['version']!r}; this worker knows version {JOB_VERSION}.",
        )
    errors = invalid.errors(include_input=False, include_url=False)
    complaints = [f"{'.'.join(map(str, e['loc'])) or 'job'}: {e['msg']}" for e in errors[:COMPLAINTS_SHOWN]]
    if len(errors) > COMPLAINTS_SHOWN:
        complaints.append(f"and {len(errors) - COMPLAINTS_SHOWN} more")
    return Failure(code=FailureCode.INVALID_JOB, message=f"The job is not valid: {'; '.join(complaints)}.")


def _question_ids(message: Mapping[str, Any]) -> list[str]:
    questions = message.get("questions")
    if not isinstance(questions, list | tuple):
        return [EVERY_QUESTION]
    ids = [question.get("id") if isinstance(question, Mapping) else None for question in questions]
    texts = [i for i in ids if isinstance(i, str)]
    return texts if texts and len(texts) == len(ids) else [EVERY_QUESTION]
