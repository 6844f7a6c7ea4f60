"""A run's folder: the ledger, what was asked for, and who works on it now; knows no command line.

ledger.sqlite   everything that is known of the run
submission.json   what was asked for once more, for the repair of a damaged ledger
feeder.lock, collector.lock   held by the process that sends, and by the one that collects
answers.jsonl, failures.jsonl and what else was asked for, written by sinks
"""

import dataclasses
import fcntl
import os
import re
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

import redis
from pydantic import BaseModel, ConfigDict, ValidationError

from contract.counting import counted
from contract.failure import FailureCode
from contract.job import Detail, GenerationParameters, ImagePath
from contract.store import attempts_key, cancelled_key, done_key, holders_key, lease_key, results_key
from producer.answered_already import AnsweredAlready
from producer.asking import Asking, Checked, Flagged
from producer.caption_question import CaptionQuestion
from producer.collect import Collector
from producer.database import LedgerDamagedError
from producer.feed import Feeder, JobQueue
from producer.first_jobs import FirstJobs, FirstJobsFailError
from producer.image_folders import ImageFolders
from producer.lease import Lease
from producer.ledger import LEDGER, Ledger, LedgerError
from producer.model_choice import model_to_ask
from producer.outputs import Outputs, refuse_changed
from producer.plan_notes import BARE, PlanNotes
from producer.questions import Prompt, check
from producer.references import Resolver
from producer.remedies import FailedRow, Surroundings, hits_every_row, remedy
from producer.rows import AnsweredRow, Row
from producer.run import CANCELLED_KEPT_S, Run
from producer.sinks.files import own_file
from producer.sinks.kinds import IMAGE_FOLDER_KIND, METADATA, beside_images, make_sinks, open_sinks
from producer.sinks.output_record import OutputFile, OutputRecord
from producer.sinks.sink import Sink, SinkError, SinkOptions
from producer.sources import (
    BadRowPolicy,
    BadRows,
    Skipped,
    Source,
    SourceError,
    SourceOptions,
    open_sources,
    own_folders,
    place_of,
    shown,
    shown_sources,
)
from producer.uploads import BUDGET_BYTES, Uploads
from producer.window import Window
from producer.workers import live_workers

RUN: Final = "run"
SUBMISSION: Final = "submission"
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
FEEDER_ENDS_S: Final = 60.0
"""For another process that sends to see that the run is stopped; it looks every few seconds."""
LOOK_EVERY_S: Final = 0.2
CONTACT_SHEET: Final = "contact_sheet.html"
Role = Literal["feeder", "collector"]


class Submission(BaseModel):
    """What was asked for, so that the run can go on without being told again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[str, ...]
    options: SourceOptions = SourceOptions()
    bad_rows: BadRowPolicy = "refuse"
    """What becomes of rows that cannot be asked."""
    earlier_options: dict[str, SourceOptions] = {}
    """Of the sources that --add kept, where they are read otherwise than with `options`."""
    prompts: tuple[Prompt, ...] = ()
    parameters: GenerationParameters = GenerationParameters()
    on_flag: dict[Flagged, dict[str, Any]] = {}
    """Flag of an answer → parameters with which its question is asked once more."""
    detail: Detail = "high"
    model: str | None = None
    """The model id that must answer; None takes that of the live workers."""
    local_model: str | None = None
    """Model folder, checkpoint folder or hub id of the workers that a command without a server starts."""
    ship: bool = False
    """Whether image files travel through the store."""
    upload_budget_bytes: int = BUDGET_BYTES
    sinks: tuple[str, ...] = ("jsonl",)
    sink_options: SinkOptions = SinkOptions()
    skip_answered: tuple[str, ...] = ()
    """Files whose images need not be asked about any more."""

    def at_home(self) -> Self:
        """The same with every path absolute, so that it holds wherever the run is continued.

        Raises SinkError for a sink that has no place with this source.
        """
        options = self.options
        if options.image_root is not None:
            options = dataclasses.replace(options, image_root=_absolute(options.image_root))
        sinks = []
        for spec in self.sinks:
            kind, separator, path = spec.partition(":")
            sinks.append(f"{kind}{separator}{os.path.abspath(path)}" if path else spec)
        sources = tuple(dict.fromkeys(map(place_of, self.sources)))
        answered = tuple(map(os.path.abspath, self.skip_answered))
        changes = {"sources": sources, "options": options, "sinks": tuple(sinks), "skip_answered": answered}
        return self.model_copy(update=changes)

    def beside_images(self, source: Source) -> Self:
        """The same at home, with a place for each sink that writes beside the images. Raises SinkError."""
        sinks = beside_images(self.sinks, source.images_folder, shown_sources(self.sources))
        return self.model_copy(update={"sinks": sinks}).at_home()

    def open(self) -> Source:
        """Raises SourceError."""
        unread = self._own_metadata()
        return open_sources(
            [(one, dataclasses.replace(self.options_of(one), unread=unread)) for one in self.sources]
        )

    def _own_metadata(self) -> tuple[str, ...]:
        """Files that look like a source's metadata, and are what the run says itself."""
        kinds = (spec.partition(":") for spec in self.sinks)
        paths = [path for kind, _, path in kinds if kind == IMAGE_FOLDER_KIND]
        beside = [os.path.join(place_of(one), METADATA) for one in self.sources]
        return tuple(os.path.abspath(path) for path in paths if path) + tuple(beside if "" in paths else ())

    def own_folders(self) -> tuple[Path, ...]:
        """The local folders that the sources show."""
        every = (own_folders(one, self.options_of(one)) for one in self.sources)
        return tuple(dict.fromkeys(folder for folders in every for folder in folders))

    def options_of(self, source: str) -> SourceOptions:
        return self.earlier_options.get(source, self.options)

    def joined(self, out: Path, *, add: bool) -> Self:
        """The submission with the sources of the run in `out`, if there is one and `add` says to keep them.

        Without it, raises LedgerError where the run has a source that is none of these: its answers would be
        gone from the outputs.
        """
        submission = self.at_home()
        earlier = _submitted(out)
        kept = () if earlier is None else earlier.sources
        if earlier is None or set(kept) <= set(submission.sources):
            return submission
        if not add:
            raise LedgerError(
                f"{shown(out)} holds answers about {shown_sources(kept)}, which this command does not name: "
                "--add keeps them and answers both, and another --out begins a run of its own."
            )
        own = {one: earlier.options_of(one) for one in kept if one not in submission.sources}
        return submission.model_copy(
            update={
                "sources": tuple(dict.fromkeys((*kept, *submission.sources))),
                "earlier_options": {
                    one: options for one, options in own.items() if options != submission.options
                },
            }
        )


@dataclass
class Planned:
    """What is known of a run before anything is sent."""

    skipped: Skipped
    rows: int = 0
    asked_by_run: int = 0
    """Of the rows, those that bring no question of their own."""
    source_notes: tuple[str, ...] = ()
    """How the sources are read, where a person may expect otherwise."""
    gone: int = 0
    """Rows that the same sources had when they were planned before, and have no more."""
    notes: PlanNotes = field(default_factory=PlanNotes)
    answered: Mapping[str, int] = field(default_factory=dict)
    """Where an answer is already → images that are not asked about, and no rows."""


class RunFolder:
    """Opened by any number of processes, of which one sends and one collects."""

    def __init__(
        self, path: Path, *, create: bool = False, read_only: bool = False, staging: Path | None = None
    ) -> None:
        """`staging` is where the ledger is as long as it is not in its place. Raises LedgerError."""
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
        """Raises LedgerError where nothing was submitted."""
        kept = self.ledger.state.get(SUBMISSION)
        if kept is None and (self.path / SUBMISSION_FILE).exists():
            raise LedgerDamagedError(self.path, "what was submitted is gone")
        if kept is None:
            raise LedgerError(f"{shown(self.path)} holds no submission; its planning was not finished.")
        return _read_submission(self.path, kept)

    @property
    def image_folders(self) -> tuple[Path, ...]:
        """Folders that hold all image files of the source; none where it names no files."""
        return tuple(map(Path, self.ledger.state.get(IMAGE_FOLDERS) or ()))

    @property
    def skipped(self) -> Skipped:
        """What the sources left out when the rows were planned."""
        return Skipped.of(self.ledger.state.get(SKIPPED) or {})

    @property
    def without_image(self) -> int:
        """Rows that are asked without an image."""
        return self.ledger.state.get(WITHOUT_IMAGE) or 0

    @property
    def answered_already(self) -> dict[str, int]:
        """Where answers were when the rows were planned → images that were not asked about."""
        return self.ledger.state.get(ANSWERED_ALREADY) or {}

    @property
    def finished(self) -> bool:
        return bool(self.ledger.state.get(FINISHED))

    def close(self) -> None:
        self.ledger.close()

    @contextmanager
    def role(self, role: Role) -> Iterator[None]:
        """Be the one process that does this. Raises LedgerError when another one is."""
        with held(self.path, role):
            yield

    @property
    def contact_sheet(self) -> OutputFile:
        return OutputFile(Path(os.path.abspath(self.path), CONTACT_SHEET), self.record, None)

    def plan(
        self, submission: Submission, source: Source, *, overwrite: bool = False, sampled: bool = False
    ) -> Planned:
        """Read the whole source and note its rows in place of the earlier ones.

        Everything is checked and nothing is sent. Output files that are not as this run folder wrote them are
        refused, or with `overwrite` taken for its own. Where the source is `sampled`, options may decide
        something in other rows. Raises SourceError and SinkError; the ledger is then as it was.
        """
        return self._plan(submission, source, "adopt" if overwrite else "refuse", sampled=sampled)

    def plan_again(self, submission: Submission, source: Source) -> Planned:
        """The same for a ledger that takes a damaged one's place; what its record says of outputs holds."""
        return self._plan(submission, source, "leave")

    def _plan(
        self,
        submission: Submission,
        source: Source,
        changed: Literal["refuse", "adopt", "leave"],
        *,
        sampled: bool = False,
    ) -> Planned:
        submission = submission.beside_images(source)
        check(submission.prompts, source.columns)
        asking = Asking(
            submission.prompts, submission.parameters, submission.detail, on_flag=submission.on_flag
        )
        files = self.output_files(submission)
        if changed == "refuse":
            refuse_changed(files)
        written = {os.path.realpath(file.path) for file in files}
        for place in submission.sources:
            _refuse_overwritten(place, written)
        folders = ImageFolders()
        captions = CaptionQuestion(submission.sink_options.question, submission.prompts)
        planned = Planned(skipped=source.skipped)
        known = AnsweredAlready(
            submission.sinks,
            submission.sink_options,
            submission.skip_answered,
            self.path,
            questions=[one.id for one in submission.prompts],
            image_root=submission.options.image_root,
        )
        bad = BadRows(submission.bad_rows)
        with closing(known), self.ledger.new_rows(bad.instead) as rows:
            try:
                for row in source.rows(bad):
                    if known.has(row):
                        continue
                    for image in row.images:
                        if isinstance(image, ImagePath):
                            _refuse_overwritten(image.to_path(), written)
                        folders.add(image)
                    for one, checked in as_asked(row, asking, bad):
                        rows.add(one, checked.questions)
                        planned.notes.add(one, checked.decided_by)
                        captions.note(one)
                        planned.asked_by_run += not one.questions and one.refusal is None
                rows.flush()
            except LedgerError as error:
                raise SourceError(str(error)) from None
            bad.require_none()
            planned.answered = dict(known.counts)
            if not rows.count and not known.counts:
                raise SourceError(f"{shown_sources(submission.sources)} has no rows.")
            if planned.notes.must_refuse_bare:
                rows.refuse_bare(BARE)
                planned.notes.note_bare_refused()
            if rows.count:
                planned.notes.refuse_without_any()
            if rows.count and not sampled:
                planned.notes.refuse_undecided(submission.options.parameters)
                asking.refuse_idle()
                captions.require()
                asking.refuse_unfit()
            planned.rows, planned.skipped = rows.count, source.skipped
            planned.source_notes = (*source.notes, *bad.notes)
            before = self.ledger.state.get(SUBMISSION)
            if before is not None and set(before["sources"]) == set(submission.sources):
                planned.gone = rows.gone()
            self.ledger.state.set(SUBMISSION, submission.model_dump(mode="json"))
            self.ledger.state.set(OVERRIDES, {})
            self.ledger.state.set(FINISHED, False)
            self.ledger.state.set(IMAGE_FOLDERS, folders.roots())
            self.ledger.state.set(SKIPPED, source.skipped.fields())
            self.ledger.state.set(WITHOUT_IMAGE, planned.notes.without_image)
            self.ledger.state.set(ANSWERED_ALREADY, planned.answered)
            if changed == "adopt":
                _adopt_changed(files)
        self._keep_copy(submission)
        return planned

    def _keep_copy(self, submission: Submission) -> None:
        with own_file(self.ledger.folder / SUBMISSION_FILE) as file:
            file.write(submission.model_dump_json(indent=1).encode())

    def output_files(self, submission: Submission) -> list[OutputFile]:
        """All that the submission's run writes. Raises SinkError for what cannot be written as asked."""
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
        """Make failed questions due again, with changed parameters. Returns how many there are.

        With `flags`, those whose answer has one of them; of failed ones then only those of `codes`.

        All outputs will be written anew, as after `plan`. Raises SinkError.
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
                _adopt_changed(files)
        return count + again

    def check_outputs(self) -> None:
        """Raises SinkError where a person's file would be written over when the run goes on."""
        refuse_changed(self.output_files(self.submission))

    def begin_outputs(self) -> None:
        """Have all outputs written again from the first row on, over whatever is there now."""
        files = self.output_files(self.submission)
        with self.role("collector"), self.ledger.transaction():
            self.ledger.outputs.begin()
            _adopt_changed(files)

    @contextmanager
    def written_again(self, sinks: Submission | None = None, *, overwrite: bool = False) -> Iterator[Outputs]:
        """All outputs, written again from what the folder knows; asks nothing and needs no store.

        `sinks` is the submission with other sinks, which it has from now on. Raises SinkError.
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
                    _adopt_changed(files)
            self._keep_copy(submission)
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
        """Raises SinkError where one of the files is a picture or a manifest of the run."""
        written = {os.path.realpath(file.path) for file in files}
        for place in submission.sources:
            _refuse_overwritten(place, written)
        for row in self.ledger.in_order():
            if isinstance(row.image, ImagePath):
                _refuse_overwritten(row.image.to_path(), written)

    def change_model(self, model: str) -> None:
        """Have the model id `model` answer what is not answered yet."""
        changed = self.submission.model_copy(update={"model": model})
        with self.ledger.transaction():
            self.ledger.state.set(SUBMISSION, changed.model_dump(mode="json"))
        self._keep_copy(changed)

    def cancel(self, connection: redis.Redis, forget: Sequence[str] = ()) -> int:
        """Withdraw what was sent and is not answered; workers drop it. Returns the number of jobs.

        Failures with a code of `forget` are asked again, too, when the run goes on.
        """
        old = self.run
        Lease(connection, old, self.path).hold()
        connection.set(cancelled_key(old), 1, ex=CANCELLED_KEPT_S)
        with self.ledger.transaction():
            count = self.ledger.withdraw()
            self.ledger.retries.ask_failed(forget)
            self.ledger.state.set(RUN, new_run_id(self.path))
        _free(connection, old)
        return count

    @contextmanager
    def work(
        self,
        connection: redis.Redis,
        queue: JobQueue,
        *,
        feed: bool,
        collect: bool,
        window: int | None = None,
        source: Source | None = None,
        further_sinks: tuple[Sink, ...] = (),
        keep_going: bool = False,
        own_workers: bool = False,
    ) -> Iterator["Work"]:
        """The run, ready to be driven; each role is taken for as long as the block lasts.

        Without `window`, it grows with the live workers; without `source`, the submission's is opened when an
        image within it is wanted. Without `keep_going` it ends in FirstJobsFailError when its first jobs all
        fail for one reason, and nothing of them is kept; `own_workers` says that the caller has started them.
        Raises LedgerError, SourceError, SinkError and LiveModelError.
        """
        submission = self.submission
        asking = Asking(
            submission.prompts, submission.parameters, submission.detail, self.ledger.state.get(OVERRIDES)
        )
        lazily = source or _Lazily(submission)
        with ExitStack() as stack:
            feeder = collector = outputs = None
            lease = Lease(connection, self.run, self.path)
            lease.hold()
            first_jobs = FirstJobs(self.ledger, watched=collect and not keep_going)
            workers = live_workers(connection)
            if feed:
                stack.enter_context(self.role("feeder"))
                self._free_left_runs(connection)
                uploads = Uploads(connection, self.run, submission.upload_budget_bytes)
                feeder = Feeder(
                    self.ledger,
                    queue,
                    uploads,
                    asking,
                    Resolver(
                        lazily.read,
                        ship=submission.ship,
                        roots=submission.own_folders(),
                    ),
                    run=self.run,
                    model=self._model(submission, {worker.model for worker in workers}),
                    on_flag=submission.on_flag,
                )
                stack.callback(feeder.close)
            if collect:
                stack.enter_context(self.role("collector"))
                collector = Collector(connection, self.ledger, self.run, first_jobs, submission.on_flag)
                refuse_changed([self.contact_sheet])
                read_image = self.reader(lazily)
                sinks = open_sinks(
                    submission.sinks, self.path, submission.sink_options, read_image, self.record
                )
                outputs = Outputs(self.ledger, self.record, (*sinks, *further_sinks))
                stack.callback(outputs.close)
            run = Run(
                self.ledger,
                queue,
                connection,
                self.run,
                feeder=feeder,
                collector=collector,
                outputs=outputs,
                window=Window(connection, window),
                first_jobs=first_jobs,
                lease=lease,
            )
            stack.callback(lease.end)
            try:
                yield Work(self, run, collector, outputs)
            except FirstJobsFailError as stop:
                if not feed:
                    self._take_feeder(connection, stack)
                raise self._stopped(
                    stop, self.surroundings(connection, own=own_workers), connection
                ) from None

    def surroundings(self, connection: redis.Redis, *, own: bool) -> Surroundings:
        """What explains failures of the run now; `own` says that the caller has started the workers."""
        return Surroundings(
            workers=live_workers(connection),
            own=own,
            ship=self.submission.ship,
            model=self.ledger.state.get(MODEL),
            image_folders=self.image_folders,
        )

    def remedies(self, around: Surroundings) -> dict[str, str]:
        """Failure code → what to do about it, of the failures that may say more of workers than of rows."""
        found = {}
        for code in self.ledger.failures():
            rows = [FailedRow.of(row, failure) for row, failure in self.ledger.failed(code, 1)]
            if rows and hits_every_row(rows):
                found[code] = remedy(rows[0], around)
        return found

    def _stopped(
        self, stop: FirstJobsFailError, around: Surroundings, connection: redis.Redis
    ) -> FirstJobsFailError:
        """Make all that was asked as new, and say what to do."""
        told = self.remedies(around)[stop.code]
        self.cancel(connection, [stop.code, FailureCode.DEPENDENCY_FAILED])
        return FirstJobsFailError(
            stop.code,
            stop.jobs,
            f"Stopped, as the first {counted(stop.jobs, 'job')} all failed with {stop.code}. {told} Then "
            f"give the same command again, or captionmill run --resume --out {shown(self.path)}: all of them "
            "are asked again (with --keep-going, whatever they end in).",
        )

    def _take_feeder(self, connection: redis.Redis, stack: ExitStack) -> None:
        """Be the one that sends once the process that does has seen that the run is cancelled."""
        connection.set(cancelled_key(self.run), 1, ex=CANCELLED_KEPT_S)
        until = time.monotonic() + FEEDER_ENDS_S
        while True:
            try:
                stack.enter_context(self.role("feeder"))
                return
            except LedgerError:
                if time.monotonic() > until:
                    raise
            time.sleep(LOOK_EVERY_S)

    def _free_left_runs(self, connection: redis.Redis) -> None:
        left = self.ledger.state.get(LEFT_RUNS)
        if left:
            for run in left:
                _free(connection, run)
            with self.ledger.transaction():
                self.ledger.state.set(LEFT_RUNS, [])

    def _model(self, submission: Submission, live: set[str]) -> str | None:
        """The model id that jobs ask for, and that earlier answers must be of."""
        model = model_to_ask(submission.model, live, self.ledger.state.get(MODEL))
        if model is not None:
            with self.ledger.transaction():
                self.ledger.state.set(MODEL, model)
        return model

    def reader(self, source: "Source | _Lazily | None" = None) -> "ReadImages":
        """Reads rows' images where the source has them."""
        return ReadImages(source or _Lazily(self.submission))


@dataclass(frozen=True)
class Work:
    """A run that this process drives."""

    folder: RunFolder
    run: Run
    collector: Collector | None
    outputs: Outputs | None

    def finish(self, keep_done_s: int) -> None:
        """After the last round: whole-file sinks write, and the store is freed but for the done bits."""
        if self.outputs is None or self.collector is None:
            return
        self.outputs.finish()
        self.collector.forget(keep_done_s)
        with self.folder.ledger.transaction():
            self.folder.ledger.state.set(FINISHED, True)


class _Lazily:
    """The submission's sources, opened when an image within it is wanted."""

    def __init__(self, submission: Submission) -> None:
        self._submission = submission
        self._source: Source | None = None

    def read(self, place: int) -> bytes:
        if self._source is None:
            self._source = self._submission.open()
        return self._source.read(place)


class ReadImages:
    """producer.rows' ReadImage: the bytes of a row's image, None where there are none in reach."""

    def __init__(self, source: Source | _Lazily) -> None:
        self._resolver = Resolver(source.read, ship=True)

    def __call__(self, row: AnsweredRow) -> bytes | None:
        return None if row.image is None else self._resolver.content(row.image)


def as_asked(row: Row, asking: Asking, bad: BadRows) -> Iterator[tuple[Row, Checked]]:
    """The row, or what stands in its place where it cannot be asked."""
    try:
        checked = asking.check(row)
    except SourceError as error:
        for refused in bad.instead(row.id, row.where, str(error)):
            yield refused, asking.check(refused)
    else:
        yield row, checked


def _refuse_overwritten(place: str | os.PathLike[str], written: Collection[str]) -> None:
    """Raises SinkError for a picture or a manifest that an output would be written over."""
    if os.path.abspath(place) in written:
        raise SinkError(f"{shown(place)} is read by the run, so no answers go there: name another file.")


def _adopt_changed(files: Iterable[OutputFile]) -> None:
    """Take for our own what is not. Within a transaction of the ledger."""
    for file in files:
        if not file.is_as_written():
            file.adopt()


def _absolute(place: str) -> str:
    return place if "://" in place else os.path.abspath(place)


@contextmanager
def held(path: Path, role: Role) -> Iterator[None]:
    """Be the one process that does this in the folder. Raises LedgerError when another one is."""
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
    """Another id takes the place of this one, whose keys in the store are freed when the run goes on."""
    ledger.state.set(LEFT_RUNS, [*(ledger.state.get(LEFT_RUNS) or ()), run])


def _free(connection: redis.Redis, run: str) -> None:
    """Have workers drop the run's jobs, and free what it has in the store."""
    connection.set(cancelled_key(run), 1, ex=CANCELLED_KEPT_S)
    connection.delete(results_key(run), done_key(run), attempts_key(run), holders_key(run), lease_key(run))
    Uploads(connection, run).keep_only(set())


def _submitted(out: Path) -> Submission | None:
    """What was asked for in a folder, which need not be there. Raises LedgerError."""
    if not (out / LEDGER).exists():
        return None
    ledger = Ledger(out, read_only=True)
    kept = ledger.state.get(SUBMISSION)
    ledger.close()
    return None if kept is None else _read_submission(out, kept)


def _read_submission(path: Path, kept: Any) -> Submission:
    try:
        return Submission.model_validate(kept)
    except ValidationError as invalid:
        raise LedgerDamagedError(path, "its submission makes no sense") from invalid


def new_run_id(path: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name).strip("-")[:40] or "run"
    return f"{name}-{uuid.uuid4().hex[:12]}"
