"""Exit codes, and errors as one sentence for a person; knows no command."""

import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import redis
import typer
from pydantic import ValidationError

from captionmill.errors import CaptionmillError
from contract.job import GenerationParameters
from producer.ask import NoWorkerError
from producer.collect import WorkersCrashError
from producer.connection import ServerError
from producer.first_jobs import FirstJobsFailError
from producer.ledger import LedgerError
from producer.model_choice import LiveModelError
from producer.parameter_layers import first_complaint
from producer.queue import BrokerAwayError
from producer.settings import Settings
from producer.sinks.sink import SinkError
from producer.sources import SourceError, shown

NAME: Final = "captionmill"
NAMES_OF_SETTINGS: Final = {
    "redis_url": "--redis or CAPTIONMILL_REDIS_URL",
    "redis_password_file": "CAPTIONMILL_REDIS_PASSWORD_FILE",
}
EXIT_FAILURES: Final = 1
EXIT_REFUSED: Final = 2
EXIT_NOT_WRITTEN: Final = 3
"""The ledger has every answer, but an output is not on disk."""
EXIT_INTERRUPTED: Final = 130
EXIT_CLOSED_PIPE: Final = 128 + signal.SIGPIPE
"""A shell's exit code for a command whose reader has gone, as in `captionmill list | head -1`."""


@contextmanager
def sentences() -> Iterator[None]:
    """Turn errors that a person can act on into one sentence and an exit code; bugs stay exceptions."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except ValidationError as invalid:
        refuse(complaint_of_options(invalid))
    except (
        CaptionmillError,
        SourceError,
        LedgerError,
        SinkError,
        ServerError,
        LiveModelError,
        NoWorkerError,
        WorkersCrashError,
        FirstJobsFailError,
    ) as error:
        refuse(str(error))
    except (redis.RedisError, BrokerAwayError) as error:
        refuse(f"Redis does not answer ({error}); is it running, and is --redis right?")
    except sqlite3.Error as error:
        refuse(f"SQLite cannot go on with the run's ledger, or with what a sink keeps beside it: {error}.")
    except BrokenPipeError:
        end_quietly()
    except OSError as error:
        refuse(f"{shown(error.filename or 'A file')} cannot be used: {error.strerror or error}.")
    except KeyboardInterrupt:
        refuse("Stopped.", EXIT_INTERRUPTED)


def complaint_of_options(invalid: ValidationError) -> str:
    """A sentence about the first of pydantic's errors, with the field's name on the command line."""
    complaint = first_complaint(invalid)
    for place in invalid.errors(include_input=False, include_url=False)[0]["loc"][:1]:
        if invalid.title == GenerationParameters.__name__:
            return complaint.replace(str(place), f"--{str(place).replace('_', '-')}", 1)
        if invalid.title == Settings.__name__:
            return complaint.replace(str(place), NAMES_OF_SETTINGS[str(place)], 1)
    return complaint


def end_quietly() -> NoReturn:
    """End the command when nobody reads its output."""
    # At its end, Python would complain that it cannot write the rest.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    raise typer.Exit(EXIT_CLOSED_PIPE)


def refuse(sentence: str, code: int = EXIT_REFUSED) -> NoReturn:
    """Print a sentence on stderr and end the command."""
    try:
        print(f"{NAME}: {sentence}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        end_quietly()
    raise typer.Exit(code)
