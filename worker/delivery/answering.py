"""From a delivered message to one record in the store, whatever happens; knows no Celery and no model."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from worker.delivery.held_jobs import HeldJobs, HolderNotes, RunAndIndex
from worker.delivery.requeue import Cancelled, Requeue
from worker.delivery.results import is_wrong_type
from worker.engine.inbox import EngineStoppedError
from worker.interactive_priority import RightOfWay
from worker.monitoring.logs import about
from worker.service import WORKER, internal_error

log = logging.getLogger(__name__)

COMPLAINTS_SHOWN: Final = 3
SAID_CHARACTERS: Final = 100
ELSEWHERE_PAUSE_S: Final = 5.0
CRASHED: Final = Failure(
    code=FailureCode.CRASHED_WORKER,
    message=f"A worker died while it answered this job, and so did {ISOLATED_ATTEMPTS} more that answered "
    "nothing else; the workers' logs may say why.",
)


class Answers(Protocol):
    """What answers a job: worker.service's Service."""

    @property
    def model_id(self) -> str: ...
    def answer(
        self,
        job: Job,
        *,
        urgent: bool = False,
        isolated: bool = False,
        wanted: Callable[[], bool] | None = None,
    ) -> JobResult: ...


class Begun(Protocol):
    """An attempt that was counted: its number, and who held the job before (contract.store's BEGIN)."""

    @property
    def attempt(self) -> int: ...
    @property
    def holder(self) -> str: ...


class Records(HolderNotes, Protocol):
    """What is known of jobs: worker.delivery.results' ResultStore."""

    def is_wanted(self, run: str, index: int) -> bool: ...
    def hold(self, worker: str, jobs: Iterable[tuple[str, int]]) -> None: ...
    def begin(self, worker: str, run: str, index: int, most: int) -> Begun: ...
    def suspect(self, run: str, index: int) -> None: ...
    def holder(self, run: str, index: int) -> str: ...
    def is_alive(self, worker: str) -> bool: ...
    def write(self, result: JobResult) -> bool: ...
    def keep_dead_letter(self, worker: str, reason: str, message: object) -> None: ...


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
        store: Records,
        pass_on: Callable[[object], None],
        worker: str = WORKER,
        pause_s: float = ELSEWHERE_PAUSE_S,
        way: RightOfWay | None = None,
    ) -> None:
        """`pass_on` puts a job into the suspect queue; `worker` is this process's name, as it is announced.

        After `pause_s` a suspect that another worker is at goes to the end of its queue. Jobs that are not
        urgent give `way` before they begin and before their record is written.
        """
        self._service = service
        self._store = store
        self._pass_on = pass_on
        self._worker = worker
        self._pause_s = pause_s
        self._way = way or RightOfWay()
        self._gate = Gate()
        self.held = HeldJobs(store, worker)
        self._under_way: set[Address] = set()

    def take(self, jobs: Sequence[object], *, urgent: bool = False, isolated: bool = False) -> None:
        """Return when each job's record, or its dead letter, is in the store, or nobody wants one here.

        Nobody does where there is a record already or the run is cancelled: an urgent job ends also if that
        happens while it is generated. An urgent job is served before others, an isolated one with nothing
        else under way. Raises Requeue when the worker drains, EngineStoppedError when it can generate no
        more, and whatever store and queue raise when they cannot be reached: the message must then go back
        to the queue, where those of its jobs that have their records are dropped.
        """
        self.held.let_go_in_vain()
        addresses = [_address(job) for job in jobs]
        with self.held.holding(_jobs(addresses)):
            if len(jobs) > 1:
                self._hold(addresses[1:])
            for number, (job, address) in enumerate(zip(jobs, addresses, strict=True)):
                try:
                    self._take(job, address, urgent, isolated)
                except BaseException as error:
                    if not is_wrong_type(error):
                        self.held.let_go(_jobs(addresses[number + 1 :]), begun=False)
                        raise
                    reason = "a key of its run in the store holds something else"
                    log.error("a message is kept as a dead letter: %s", reason)
                    self._store.keep_dead_letter(self._worker, reason, job)

    def _hold(self, addresses: Sequence[Address | None]) -> None:
        try:
            self._store.hold(self._worker, _jobs(addresses))
        except redis.ResponseError as error:
            # Which of them it is shows when each is taken.
            if not is_wrong_type(error):
                raise

    def _take(self, job: object, address: Address | None, urgent: bool, isolated: bool) -> None:
        if address is None:
            letter = dead_letter(job)
            log.error("a message that tells no job is kept as a dead letter: %s", letter.reason)
            self._store.keep_dead_letter(self._worker, letter.reason, letter.message)
            return
        assert isinstance(job, Mapping), "it has an address"
        if isolated and self._is_elsewhere(address, self._store.holder(address.run, address.index)):
            # A second copy of its message, which waits at the end of the queue for what becomes of it.
            time.sleep(self._pause_s)
            self._pass_on(job)
            return
        if not urgent:
            self._way.give()
        with self._gate.alone() if isolated else self._gate.together():
            most = MOST_ATTEMPTS if isolated else 1
            begun = self._begin(address, most)
            if begun.attempt > 0:
                self._answer(address, job, urgent, isolated)
                return
        if begun.attempt == 0:
            log.info(
                "run %s job %d is answered or cancelled; it is dropped",
                address.run,
                address.index,
                extra=about(address),
            )
        elif isolated:
            self._write(self._failed(address, job, CRASHED))
        else:
            if not self._is_elsewhere(address, begun.holder):
                log.warning(
                    "run %s job %d was under way when a worker died",
                    address.run,
                    address.index,
                    extra=about(address),
                )
                self._store.suspect(address.run, address.index)
            self._pass_on(job)

    def _begin(self, address: Address, most: int) -> Begun:
        try:
            return self._store.begin(self._worker, address.run, address.index, most)
        except BaseException:
            # It may have been counted, and only the reply was lost.
            self.held.let_go(_jobs([address]), begun=True)
            raise

    def _is_elsewhere(self, address: Address, holder: str) -> bool:
        """Whether a live worker, or another thread of this one, is at the job."""
        if holder == self._worker:
            return address in self._under_way
        return self._store.is_alive(holder)

    def _answer(self, address: Address, job: Mapping[str, Any], urgent: bool, isolated: bool) -> None:
        self._under_way.add(address)
        try:
            result = self._result(address, job, urgent, isolated)
            if not urgent:
                self._way.give()
            self._write(result)
        except Cancelled:
            log.info("run %s job %d was cancelled; it is dropped", address.run, address.index)
            self.held.let_go(_jobs([address]), begun=True)
        except EngineStoppedError:
            raise  # what it was about may have been this job: the attempt counts
        except BaseException:
            self.held.let_go(_jobs([address]), begun=True)
            raise
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

    def _result(
        self, address: Address, message: Mapping[str, Any], urgent: bool, isolated: bool
    ) -> JobResult:
        try:
            job = Job.model_validate(message)
            wanted = partial(_still_wanted, self._store, address) if urgent else None
            return self._service.answer(job, urgent=urgent, isolated=isolated, wanted=wanted)
        except (Requeue, Cancelled, EngineStoppedError):
            raise
        except ValidationError as invalid:
            return self._failed(address, message, _refused(message, invalid))
        except BaseException as bug:
            # Also MemoryError and SystemExit: one that leaves a Celery task takes the pool's slot with it.
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


def _still_wanted(store: Records, address: Address) -> bool:
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
