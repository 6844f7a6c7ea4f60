"""A run's folder: the ledger, the submission, and the locks of its processes; knows no command line.

ledger.sqlite   everything that is known of the run
submission.json   a copy of the submission, for the repair of a damaged ledger
feeder.lock, collector.lock   held by the process that sends, and by the one that collects
answers.jsonl, failures.jsonl and other outputs, written by sinks
"""

import fcntl
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import redis

from contract.job import ImagePath
from contract.store import attempts_key, cancelled_key, done_key, holders_key, lease_key, results_key
from producer.collect import CANCELLED_KEPT_S
from producer.database import LedgerDamagedError
from producer.lease import Lease
from producer.ledger import Ledger, LedgerError
from producer.outputs import Outputs, adopt_changed, refuse_changed
from producer.references import Resolver
from producer.remedies import FailedRow, Surroundings, hits_every_row, remedy
from producer.rows import AnsweredRow
from producer.sinks.files import own_file
from producer.sinks.kinds import make_sinks, open_sinks
from producer.sinks.output_record import OutputFile, OutputRecord
from producer.sinks.sink import SinkError
from producer.sources import Skipped, Source, shown
from producer.submission import SUBMISSION, Submission, read_submission
from producer.uploads import Uploads
from producer.workers import live_workers

RUN: Final = "run"
OVERRIDES: Final = "overrides"
FINISHED: Final = "finished"
MODEL: Final = "model"
IMAGE_FOLDERS: Final = "image_folders"
SKIPPED: Final = "skipped"
WITHOUT_IMAGE: Final = "without_image"
ANSWERED_ALREADY: Final = "answered_already"
LEFT_RUNS: Final = "left_runs"
"""Names in the ledger's state."""
SUBMISSION_FILE: Final = "submission.json"
"""A copy for the repair of a damaged ledger; nothing else reads it."""
CONTACT_SHEET: Final = "contact_sheet.html"
Role = Literal["feeder", "collector"]


class RunFolder:
    """Opened by any number of processes; one of them sends, and one collects."""

    def __init__(
        self, path: Path, *, create: bool = False, read_only: bool = False, staging: Path | None = None
    ) -> None:
        """`staging` holds the ledger until it is moved to its place. Raises LedgerError."""
        self.path = path
        self.ledger = Ledger(staging or path, create=create, read_only=read_only)
        self.record = OutputRecord(self.ledger, path)
        if create and self.ledger.state.get(RUN) is None:
            with self.ledger.transaction():
                self.ledger.state.set(RUN, new_run_id(path))

    @property
    def run(self) -> str:
        run: str = self.ledger.state.get(RUN)
        return run

    @property
    def submission(self) -> Submission:
        """Raises LedgerError if nothing was submitted."""
        kept = self.ledger.state.get(SUBMISSION)
        if kept is None and (self.path / SUBMISSION_FILE).exists():
            raise LedgerDamagedError(self.path, "the submission is missing")
        if kept is None:
            raise LedgerError(f"{shown(self.path)} holds no submission; its planning was not finished.")
        return read_submission(self.path, kept)

    @property
    def image_folders(self) -> tuple[Path, ...]:
        """Folders that hold all image files of the source; none if it names no files."""
        return tuple(map(Path, self.ledger.state.get(IMAGE_FOLDERS) or ()))

    @property
    def skipped(self) -> Skipped:
        """Files that the sources left out when the rows were planned."""
        return Skipped.of(self.ledger.state.get(SKIPPED) or {})

    @property
    def without_image(self) -> int:
        """Number of rows that are asked without an image."""
        return self.ledger.state.get(WITHOUT_IMAGE) or 0

    @property
    def answered_already(self) -> dict[str, int]:
        """Where answers were when the rows were planned → number of images that were left out."""
        return self.ledger.state.get(ANSWERED_ALREADY) or {}

    @property
    def finished(self) -> bool:
        return bool(self.ledger.state.get(FINISHED))

    def close(self) -> None:
        self.ledger.close()

    def role(self, role: Role) -> AbstractContextManager[None]:
        """Be the one process with this role. Raises LedgerError if another process has it."""
        return held(self.path, role)

    @property
    def contact_sheet(self) -> OutputFile:
        return OutputFile(Path(os.path.abspath(self.path), CONTACT_SHEET), self.record, None)

    def keep_copy(self, submission: Submission) -> None:
        with own_file(self.ledger.folder / SUBMISSION_FILE) as file:
            file.write(submission.model_dump_json(indent=1).encode())

    def output_files(self, submission: Submission) -> list[OutputFile]:
        """All files that the submission's run writes. Raises SinkError for an impossible output."""
        sinks = make_sinks(submission.sinks, self.path, submission.sink_options, lambda _: None, self.record)
        return [self.contact_sheet, *(file for sink in sinks for file in sink.files())]

    def retry(
        self,
        codes: list[str] | None,
        changes: dict[str, Any],
        *,
        flags: Sequence[str] = (),
        overwrite: bool = False,
    ) -> int:
        """Make failed questions due again, with changed parameters. Returns their number.

        With `flags`, it takes questions whose answer has one of them, and failed ones only with `codes`. All
        outputs will be written again. Raises SinkError.
        """
        files = self.output_files(self.submission)
        if not overwrite:
            refuse_changed(files)
        with self.ledger.transaction():
            again = sum(self.ledger.retries.ask_flagged(flag, changes) for flag in flags)
            if again:
                self.ledger.outputs.begin()
                self.ledger.state.set(FINISHED, False)
            count = self.ledger.retries.ask_failed([] if flags and codes is None else codes)
            if count:
                self.ledger.state.set(OVERRIDES, {**(self.ledger.state.get(OVERRIDES) or {}), **changes})
                self.ledger.state.set(FINISHED, False)
            if overwrite:
                self.ledger.outputs.begin()
                adopt_changed(files)
        return count + again

    def begin_outputs(self) -> None:
        """Have all outputs written again from the first row on, over existing files."""
        files = self.output_files(self.submission)
        with self.role("collector"), self.ledger.transaction():
            self.ledger.outputs.begin()
            adopt_changed(files)

    @contextmanager
    def written_again(self, sinks: Submission | None = None, *, overwrite: bool = False) -> Iterator[Outputs]:
        """Write all outputs again from the ledger; asks nothing and needs no store.

        `sinks` is a submission with other sinks, which replaces the present one. Raises SinkError.
        """
        submission = sinks or self.submission
        with self.role("collector"):
            files = self.output_files(submission)
            if overwrite:
                self._refuse_read(submission, files)
            else:
                refuse_changed(files)
            with self.ledger.transaction():
                self.ledger.state.set(SUBMISSION, submission.model_dump(mode="json"))
                self.ledger.outputs.begin()
                if overwrite:
                    adopt_changed(files)
            self.keep_copy(submission)
            opened = open_sinks(
                submission.sinks, self.path, submission.sink_options, self.reader(), self.record
            )
            outputs = Outputs(self.ledger, self.record, opened)
            try:
                while outputs.write():
                    pass
                outputs.finish()
                yield outputs
            finally:
                outputs.close()

    def _refuse_read(self, submission: Submission, files: Iterable[OutputFile]) -> None:
        """Raises SinkError if one of the files is an image or a manifest of the run."""
        written = {os.path.realpath(file.path) for file in files}
        for place in submission.sources:
            refuse_overwritten(place, written)
        for row in self.ledger.in_order():
            if isinstance(row.image, ImagePath):
                refuse_overwritten(row.image.to_path(), written)

    def change_model(self, model: str) -> None:
        """Use the model id `model` for questions that are not answered yet."""
        changed = self.submission.model_copy(update={"model": model})
        with self.ledger.transaction():
            self.ledger.state.set(SUBMISSION, changed.model_dump(mode="json"))
        self.keep_copy(changed)

    def cancel(self, connection: redis.Redis, forget: Sequence[str] = ()) -> int:
        """Withdraw unanswered jobs; workers drop them. Returns their number.

        Failures with a code in `forget` are asked again, too, when the run goes on.
        """
        old = self.run
        Lease(connection, old, self.path).hold()
        connection.set(cancelled_key(old), 1, ex=CANCELLED_KEPT_S)
        with self.ledger.transaction():
            count = self.ledger.withdraw()
            self.ledger.retries.ask_failed(forget)
            self.ledger.state.set(RUN, new_run_id(self.path))
        free(connection, old)
        return count

    def surroundings(self, connection: redis.Redis, *, own: bool) -> Surroundings:
        """Facts that may explain the run's failures; `own` says that the caller started the workers."""
        return Surroundings(
            workers=live_workers(connection),
            own=own,
            ship=self.submission.ship,
            model=self.ledger.state.get(MODEL),
            image_folders=self.image_folders,
        )

    def remedies(self, around: Surroundings) -> dict[str, str]:
        """Failure code → what to do about it, for failures whose cause may be the workers."""
        found = {}
        for code in self.ledger.failures():
            rows = [FailedRow.of(row, failure) for row, failure in self.ledger.failed(code, 1)]
            if rows and hits_every_row(rows):
                found[code] = remedy(rows[0], around)
        return found

    def reader(self, source: Source | None = None) -> "ReadImages":
        """A reader of rows' images; without `source`, the submission's is opened when needed."""
        opened = cache(self.submission.open)
        return ReadImages(lambda place: (source or opened()).read(place))


class ReadImages:
    """A producer.rows.ReadImage: the bytes of a row's image, or None if they cannot be read."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        """`read` gives the bytes of images within the source."""
        self.read = read
        self._resolver = Resolver(read, ship=True)

    def __call__(self, row: AnsweredRow) -> bytes | None:
        return None if row.image is None else self._resolver.content(row.image)


def refuse_overwritten(place: str | os.PathLike[str], written: Collection[str]) -> None:
    """Raises SinkError if an output would be written over an image or a manifest."""
    if os.path.abspath(place) in written:
        raise SinkError(f"{shown(place)} is read by the run, so no output can replace it: name another file.")


@contextmanager
def held(path: Path, role: Role) -> Iterator[None]:
    """Be the one process with this role in the folder. Raises LedgerError if another process has it."""
    descriptor = os.open(path / f"{role}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            does = "sends the jobs" if role == "feeder" else "collects the answers"
            raise LedgerError(f"Another process {does} of {shown(path)}.") from None
        yield
    finally:
        os.close(descriptor)


def note_left_run(ledger: Ledger, run: str) -> None:
    """Note a run id that is no longer used; its keys in the store are freed when the run goes on."""
    ledger.state.set(LEFT_RUNS, [*(ledger.state.get(LEFT_RUNS) or ()), run])


def free(connection: redis.Redis, run: str) -> None:
    """Have workers drop the run's jobs, and delete the run's keys in the store."""
    connection.set(cancelled_key(run), 1, ex=CANCELLED_KEPT_S)
    connection.delete(results_key(run), done_key(run), attempts_key(run), holders_key(run), lease_key(run))
    Uploads(connection, run).keep_only(set())


def new_run_id(path: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name).strip("-")[:40] or "run"
    return f"{name}-{uuid.uuid4().hex[:12]}"
