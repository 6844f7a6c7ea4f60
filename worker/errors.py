"""The root of this package's exceptions, shared ones, and exceptions as values; knows no job and no model."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class WorkerError(Exception):
    """Every public exception of `worker` derives from it. A refused job is a Failure and no exception.

    StartupError               the operator must change something before the worker can start
    ├── ModelFolderError       the folder holds no model that this worker can run
    ├── UnknownDeviceError     OpenVINO has no such device
    ├── SettingsError          a setting is missing, unknown or of a wrong value
    ├── ServerRefusedError     the server would lose jobs, or cannot be used
    ├── RemoteSchemeError      images of this URL scheme cannot be offered
    └── PortError              the HTTP port cannot be opened
    Requeue                    the job goes back to the queue
    └── StoreAwayError         the result store cannot be read
    Cancelled                  nobody wants the job's record any more
    EngineStoppedError         the engine takes no more requests
    UnreadableError            the bytes of a message hold no jobs
    DecoderStartError          a process that decodes images did not start
    DiedError                  a process that decodes images ended
    """


class StartupError(WorkerError):
    """The worker cannot start. The message is a sentence that tells the operator what to change."""


class Requeue(WorkerError):  # noqa: N818 - no error: another worker answers the job
    """This worker cannot begin or finish the job now, as when it drains. The job goes back unchanged."""


class StoreAwayError(Requeue):
    """The result store cannot be read."""


class Cancelled(WorkerError):  # noqa: N818 - no error: the run was cancelled while the job was generated
    """Nobody wants the job's record any more."""


def attempt(call: Callable[[], T]) -> T | Exception:
    """What `call` returns, or the Exception that it raises."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - the caller tells whoever the error concerns
        return error


def fulfil(future: Future[T], call: Callable[[], T]) -> None:
    """Give the future the result or the exception of `call`, so that every waiting thread goes on."""
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - raised again in every thread that waits
        future.set_exception(error)
    else:
        future.set_result(result)
