"""Turns each delivered message into records, whatever happens; knows no Celery and no model."""

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any, Final, Protocol

import redis
from pydantic import BaseModel, ConfigDict, ValidationError

from contract.answer import EVERY_QUESTION, JobResult, QuestionResult
from contract.failure import Failure, FailureCode
from contract.job import JOB_VERSION, Job, JobIndex, RunId
from contract.store import ISOLATED_ATTEMPTS, MOST_ATTEMPTS
from worker.delivery.envelope import dead_letter
from worker.delivery.gate import Gate
from worker.delivery.held_jobs import HeldJobs, RunAndIndex
from worker.delivery.results import ResultStore, is_wrong_type
from worker.device_scheduler import DeviceScheduler
from worker.engine.inbox import EngineStoppedError
from worker.errors import Cancelled, Requeue
from worker.lane import Lane
from worker.monitoring.logs import about
from worker.questions import internal_error
from worker.service import WORKER

log = logging.getLogger(__name__)

COMPLAINTS_SHOWN: Final = 3
QUOTED_CHARACTERS: Final = 100
ELSEWHERE_PAUSE_S: Final = 5.0
CRASHED: Final = Failure(
    code=FailureCode.CRASHED_WORKER,
    message=f"A worker died while it answered this job, and so did {ISOLATED_ATTEMPTS} more that answered "
    "nothing else; look for the reason in the workers' logs.",
)


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class MessageOutcome(Enum):
    """What happens to a message after take()."""

    ACKNOWLEDGE = auto()
    """Each of its jobs has its record or dead letter, was passed on, or is no longer wanted."""
    REQUEUE = auto()
    """It goes back to the queue. Its jobs that have records are dropped when it comes again."""


class Answers(Protocol):
    """Answers a job: worker.service's Service."""

    @property
    def model_id(self) -> str: ...
    def answer(
        self, job: Job, lane: Lane = Lane.BULK, wanted: Callable[[], bool] | None = None
    ) -> JobResult: ...


class Address(BaseModel):
    """Run and index of a job: the least that a record needs."""

    model_config = ConfigDict(frozen=True)

    run: RunId
    index: JobIndex


class Attempts:
    """Turns each job into a record or a dead letter, or sends it to the suspect queue or back to its own.

    An attempt is counted before a job is touched. A job that was begun and has no record was under way when a
    worker died. It goes to the suspect queue and is answered alone there, so that one more death blames it.
    """

    def __init__(
        self,
        service: Answers,
        store: ResultStore,
        pass_on: Callable[[object], None],
        worker: str = WORKER,
        pause_s: float = ELSEWHERE_PAUSE_S,
        device: DeviceScheduler | None = None,
        end_process: Callable[[], None] = _terminate,
    ) -> None:
        """`pass_on` puts a job into the suspect queue; `worker` is this process's name, as it is announced.

        A suspect that another worker holds goes to the end of its queue after `pause_s` seconds. `device` is
        the service's: interactive work goes first, before a job begins and before its record is written.
        `end_process` makes this process drain and end.
        """
        self._service = service
        self._store = store
        self._pass_on = pass_on
        self._worker = worker
        self._pause_s = pause_s
        self._device = device or DeviceScheduler()
        self._end_process = end_process
        self._gate = Gate()
        self.held = HeldJobs(store, worker)
        self._under_way: set[Address] = set()

    def take(self, jobs: Sequence[object], lane: Lane = Lane.BULK) -> MessageOutcome:
        """Answer the jobs of one message and return what happens to the message. Raises nothing.

        A job that has its record, or whose run is cancelled, is dropped. An interactive job is dropped also
        when that happens while it is generated. A suspect is answered with nothing else under way. The
        message goes back when the worker drains, when store or queue cannot be reached, and when the engine
        has stopped. After the engine has stopped this process drains too: it could only send messages back.
        """
        try:
            self._take_all(jobs, lane)
        except BaseException as error:  # noqa: BLE001 - any error would end a thread of the pool
            if isinstance(error, EngineStoppedError):
                self._end_process()
            log.warning("a message goes back to the queue: %s", type(error).__name__)
            return MessageOutcome.REQUEUE
        return MessageOutcome.ACKNOWLEDGE

    def _take_all(self, jobs: Sequence[object], lane: Lane) -> None:
        self.held.release_pending()
        addresses = [_address(job) for job in jobs]
        with self.held.holding(_jobs(addresses)):
            if len(jobs) > 1:
                self._hold(addresses[1:])
            for number, (job, address) in enumerate(zip(jobs, addresses, strict=True)):
                with self.held.release_on_error(_jobs(addresses[number + 1 :]), begun=False):
                    try:
                        self._take(job, address, lane)
                    except redis.ResponseError as error:
                        if not is_wrong_type(error):
                            raise
                        self._keep_dead_letter(job, "a key of its run in the store is of another type")

    def _keep_dead_letter(self, job: object, reason: str) -> None:
        log.error("a message is kept as a dead letter: %s", reason)
        self._store.keep_dead_letter(self._worker, reason, job)

    def _hold(self, addresses: Sequence[Address | None]) -> None:
        try:
            self._store.hold(self._worker, _jobs(addresses))
        except redis.ResponseError as error:
            # Taking each job shows which of them it is.
            if not is_wrong_type(error):
                raise

    def _take(self, job: object, address: Address | None, lane: Lane) -> None:
        if address is None:
            letter = dead_letter(job)
            self._keep_dead_letter(letter.message, letter.reason)
            return
        assert isinstance(job, Mapping), "it has an address"
        suspect = lane is Lane.SUSPECT
        if suspect and self._has_live_holder(address, self._store.holder(address.run, address.index)):
            # A second copy of its message, which waits at the end of the queue until the job has ended.
            time.sleep(self._pause_s)
            self._pass_on(job)
            return
        self._device.yield_to_interactive(lane)
        with self._gate.exclusive() if suspect else self._gate.shared():
            # If only the reply is lost, the attempt has been counted.
            with self.held.release_on_error(_jobs([address]), begun=True):
                most = MOST_ATTEMPTS if suspect else 1
                begun = self._store.begin(self._worker, address.run, address.index, most)
            if begun.attempt > 0:
                self._answer(address, job, lane)
                return
        if begun.attempt == 0:
            log.info(
                "run %s job %d is answered or cancelled; it is dropped",
                address.run,
                address.index,
                extra=about(address),
            )
        elif suspect:
            self._write(self._failed(address, job, CRASHED))
        else:
            self._suspect(address, begun.holder)
            self._pass_on(job)

    def _suspect(self, address: Address, holder: str) -> None:
        """Mark the job as a suspect, unless the worker that holds it lives."""
        if not self._has_live_holder(address, holder):
            log.warning(
                "run %s job %d was under way when a worker died",
                address.run,
                address.index,
                extra=about(address),
            )
            self._store.suspect(address.run, address.index)

    def _has_live_holder(self, address: Address, holder: str) -> bool:
        """Whether a live worker, or another thread of this one, is answering the job."""
        if holder == self._worker:
            return address in self._under_way
        return self._store.is_alive(holder)

    def _answer(self, address: Address, job: Mapping[str, Any], lane: Lane) -> None:
        self._under_way.add(address)
        try:
            with self.held.release_on_error(_jobs([address]), begun=True):
                result = self._result(address, job, lane)
                self._device.yield_to_interactive(lane)
                self._write(result)
        except Cancelled:
            log.info("run %s job %d was cancelled; it is dropped", address.run, address.index)
        finally:
            self._under_way.discard(address)

    def _write(self, result: JobResult) -> None:
        if not self._store.write(result):
            log.info(
                "run %s job %d had its record already; this one is dropped",
                result.run,
                result.index,
                extra=about(result),
            )

    def _result(self, address: Address, message: Mapping[str, Any], lane: Lane) -> JobResult:
        try:
            job = Job.model_validate(message)
            interactive = lane is Lane.INTERACTIVE
            wanted = partial(_still_wanted, self._store, address) if interactive else None
            return self._service.answer(job, lane, wanted)
        except (Requeue, Cancelled, EngineStoppedError):
            raise
        except ValidationError as invalid:
            return self._failed(address, message, _refused(message, invalid))
        except BaseException as bug:
            # MemoryError and SystemExit too: this job gets its record, and the next job another chance.
            log.exception("run %s job %d: a bug", address.run, address.index, extra=about(address))
            return self._failed(address, message, internal_error(bug))

    def _failed(self, address: Address, message: Mapping[str, Any], failure: Failure) -> JobResult:
        return JobResult(
            run=address.run,
            index=address.index,
            worker=self._worker,
            model=self._service.model_id,
            seconds=0.0,
            results=tuple(QuestionResult(question=q, outcome=failure) for q in _question_ids(message)),
        )


def _jobs(addresses: Sequence[Address | None]) -> list[RunAndIndex]:
    """Run and index of each address that is there."""
    return [(one.run, one.index) for one in addresses if one is not None]


def _still_wanted(store: ResultStore, address: Address) -> bool:
    """Whether the job is still wanted; True while the store is away, as writing the record will show it."""
    try:
        return store.is_wanted(address.run, address.index)
    except redis.RedisError:
        return True


def _address(message: object) -> Address | None:
    """The job that a message names; None if it names none."""
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
            message=f"The job has version {_cut(repr(message['version']))}; "
            f"this worker knows version {JOB_VERSION}. Use a producer of the same release.",
        )
    errors = invalid.errors(include_input=False, include_url=False)
    complaints = [
        f"{_cut('.'.join(map(str, e['loc']))) or 'job'}: {e['msg']}" for e in errors[:COMPLAINTS_SHOWN]
    ]
    if len(errors) > COMPLAINTS_SHOWN:
        complaints.append(f"and {len(errors) - COMPLAINTS_SHOWN} more")
    return Failure(code=FailureCode.INVALID_JOB, message=f"The job is not valid: {'; '.join(complaints)}.")


def _cut(text: str) -> str:
    """The beginning of a text, which in a message may have any length."""
    return text if len(text) <= QUOTED_CHARACTERS else f"{text[:QUOTED_CHARACTERS]}…"


def _question_ids(message: Mapping[str, Any]) -> list[str]:
    questions = message.get("questions")
    if not isinstance(questions, list | tuple):
        return [EVERY_QUESTION]
    ids = [question.get("id") if isinstance(question, Mapping) else None for question in questions]
    texts = [i for i in ids if isinstance(i, str)]
    return texts if texts and len(texts) == len(ids) else [EVERY_QUESTION]
