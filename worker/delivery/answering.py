"""From a delivered message to one record in the store, whatever happens; knows no Celery and no model."""

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
SAID_CHARACTERS: Final = 100
ELSEWHERE_PAUSE_S: Final = 5.0
CRASHED: Final = Failure(
    code=FailureCode.CRASHED_WORKER,
    message=f"A worker died while it answered this job, and so did {ISOLATED_ATTEMPTS} more that answered "
    "nothing else; the workers' logs may say why.",
)


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class MessageOutcome(Enum):
    """What becomes of a message once its jobs were taken."""

    ACKNOWLEDGE = auto()
    """Each of its jobs has its record or dead letter, was passed on, or is wanted by nobody."""
    REQUEUE = auto()
    """It goes back to the queue. Jobs in it that have their records are dropped when it comes again."""


class Answers(Protocol):
    """What answers a job: worker.service's Service."""

    @property
    def model_id(self) -> str: ...
    def answer(
        self, job: Job, lane: Lane = Lane.BULK, wanted: Callable[[], bool] | None = None
    ) -> JobResult: ...


class Address(BaseModel):
    """The least a message must tell so that a record can be written for it."""

    model_config = ConfigDict(frozen=True)

    run: RunId
    index: JobIndex


class Answering:
    """Turns each job into a record, a dead letter, a suspect or a job given back.

    An attempt is counted before a job is touched. One that was begun and has no record was under way when a
    worker died: it goes to the suspect queue and is answered alone there, so that one more death blames it.
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

        A suspect that another worker holds goes to the end of its queue after `pause_s`. `device` is the
        service's: interactive work goes before a job begins and before its record is written. `end_process`
        makes this process drain and end.
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
        """Answer the jobs of one message; raises nothing.

        A job needs no answer where it has its record already or its run is cancelled; an interactive job ends
        also when that happens meanwhile. A suspect is answered with nothing else under way. The message goes
        back when the worker drains, when store or queue cannot be reached, and when the engine has stopped:
        then this process drains too, as without an engine it would only turn messages round.
        """
        try:
            self._take_all(jobs, lane)
        except BaseException as kept:  # noqa: BLE001 - whatever it is would take a thread of the pool with it
            if isinstance(kept, EngineStoppedError):
                self._end_process()
            log.warning("a message goes back to the queue: %s", type(kept).__name__)
            return MessageOutcome.REQUEUE
        return MessageOutcome.ACKNOWLEDGE

    def _take_all(self, jobs: Sequence[object], lane: Lane) -> None:
        self.held.let_go_in_vain()
        addresses = [_address(job) for job in jobs]
        with self.held.holding(_jobs(addresses)):
            if len(jobs) > 1:
                self._hold(addresses[1:])
            for number, (job, address) in enumerate(zip(jobs, addresses, strict=True)):
                with self.held.let_go_on_error(_jobs(addresses[number + 1 :]), begun=False):
                    try:
                        self._take(job, address, lane)
                    except redis.ResponseError as error:
                        if not is_wrong_type(error):
                            raise
                        self._keep(job, "a key of its run in the store holds something else")

    def _keep(self, job: object, reason: str) -> None:
        log.error("a message is kept as a dead letter: %s", reason)
        self._store.keep_dead_letter(self._worker, reason, job)

    def _hold(self, addresses: Sequence[Address | None]) -> None:
        try:
            self._store.hold(self._worker, _jobs(addresses))
        except redis.ResponseError as error:
            # Which of them it is shows when each is taken.
            if not is_wrong_type(error):
                raise

    def _take(self, job: object, address: Address | None, lane: Lane) -> None:
        if address is None:
            letter = dead_letter(job)
            self._keep(letter.message, letter.reason)
            return
        assert isinstance(job, Mapping), "it has an address"
        suspect = lane is Lane.SUSPECT
        if suspect and self._is_elsewhere(address, self._store.holder(address.run, address.index)):
            # A second copy of its message. It waits at the end of the queue for what becomes of the job.
            time.sleep(self._pause_s)
            self._pass_on(job)
            return
        self._device.yield_to_interactive(lane)
        with self._gate.exclusive() if suspect else self._gate.shared():
            # An attempt may have been counted of which only the reply is lost.
            with self.held.let_go_on_error(_jobs([address]), begun=True):
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
        """Note that the job was under way when its worker died, unless that worker lives."""
        if not self._is_elsewhere(address, holder):
            log.warning(
                "run %s job %d was under way when a worker died",
                address.run,
                address.index,
                extra=about(address),
            )
            self._store.suspect(address.run, address.index)

    def _is_elsewhere(self, address: Address, holder: str) -> bool:
        """Whether a live worker, or another thread of this one, is at the job."""
        if holder == self._worker:
            return address in self._under_way
        return self._store.is_alive(holder)

    def _answer(self, address: Address, job: Mapping[str, Any], lane: Lane) -> None:
        self._under_way.add(address)
        try:
            with self.held.let_go_on_error(_jobs([address]), begun=True):
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
            # MemoryError and SystemExit too: the job has its record, and the next one another chance.
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
    """Of the messages that tell a job."""
    return [(one.run, one.index) for one in addresses if one is not None]


def _still_wanted(store: ResultStore, address: Address) -> bool:
    """A store that is away has told nothing else; whether the record can be written is seen later."""
    try:
        return store.is_wanted(address.run, address.index)
    except redis.RedisError:
        return True


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
            message=f"The job has version {_cut(repr(message['version']))}; "
            f"this worker knows version {JOB_VERSION}.",
        )
    errors = invalid.errors(include_input=False, include_url=False)
    complaints = [
        f"{_cut('.'.join(map(str, e['loc']))) or 'job'}: {e['msg']}" for e in errors[:COMPLAINTS_SHOWN]
    ]
    if len(errors) > COMPLAINTS_SHOWN:
        complaints.append(f"and {len(errors) - COMPLAINTS_SHOWN} more")
    return Failure(code=FailureCode.INVALID_JOB, message=f"The job is not valid: {'; '.join(complaints)}.")


def _cut(said: str) -> str:
    """What a message says of itself may have any length."""
    return said if len(said) <= SAID_CHARACTERS else f"{said[:SAID_CHARACTERS]}…"


def _question_ids(message: Mapping[str, Any]) -> list[str]:
    questions = message.get("questions")
    if not isinstance(questions, list | tuple):
        return [EVERY_QUESTION]
    ids = [question.get("id") if isinstance(question, Mapping) else None for question in questions]
    texts = [i for i in ids if isinstance(i, str)]
    return texts if texts and len(texts) == len(ids) else [EVERY_QUESTION]
