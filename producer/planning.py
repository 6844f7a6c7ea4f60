"""Plans a submission in a run folder, completely or not at all; sends nothing."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from producer.ledger import LEDGER, LedgerError, require_folder
from producer.planner import Changed, Planned, Planner
from producer.run_folder import SUBMISSION_FILE, RunFolder
from producer.sinks.files import sync_folder
from producer.sources import Source, shown
from producer.submission import Submission

PLANNING: Final = ".planning"
"""Folder within a new run folder that holds the ledger while it is planned."""


def plan_run(out: Path, submission: Submission, source: Source, *, overwrite: bool = False) -> Planned:
    """Plan the whole source in the run folder `out`, which is made if it does not exist.

    After an exception or a kill, `out` is unchanged. Raises SourceError, LedgerError and SinkError.
    """
    require_folder(out)
    changed: Changed = "adopt" if overwrite else "refuse"
    if (out / LEDGER).exists():
        with closing(RunFolder(out)) as folder, folder.role("feeder"), folder.role("collector"):
            return Planner(folder, submission, source).plan(changed)
    with _made(out), _staging(out) as staging:
        with closing(RunFolder(out, create=True, staging=staging)) as folder:
            planned = Planner(folder, submission, source).plan(changed)
        _put_in_place(staging, out)
    return planned


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make the folder if it is missing. After an exception, empty folders that were made are removed."""
    missing = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(f"The folder {shown(folder)} cannot be made: {error.strerror}.") from None
    try:
        yield
    except BaseException:
        for one in missing:
            with suppress(OSError):
                one.rmdir()
        raise


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """An empty folder in `out`, for one process at a time. Raises LedgerError if another process plans."""
    staging = out / PLANNING
    staging.mkdir(exist_ok=True)
    descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LedgerError(f"Another process plans a run in {shown(out)}.") from None
        if not staging.exists() or not os.path.samestat(os.fstat(descriptor), staging.stat()):
            raise LedgerError(f"Another process has just planned a run in {shown(out)}.")
        for name in os.listdir(staging):
            (staging / name).unlink()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    finally:
        os.close(descriptor)


def _put_in_place(staging: Path, out: Path) -> None:
    """Move the closed ledger and its companion into the run folder. Raises LedgerError."""
    if (out / LEDGER).exists():
        raise LedgerError(f"Another process has planned a run in {shown(out)} in the meantime.")
    if sorted(os.listdir(staging)) != sorted((LEDGER, SUBMISSION_FILE)):
        raise LedgerError(f"The ledger of {shown(out)} cannot be completed; is the disk full?")
    for name in (LEDGER, SUBMISSION_FILE):
        (staging / name).rename(out / name)
    sync_folder(out)
