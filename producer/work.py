"""Sets up a process's work on a run: its roles, feeder, collector and outputs; knows no command line."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import redis

from contract.counting import counted
from contract.failure import FailureCode
from contract.store import cancelled_key
from producer.collect import CANCELLED_KEPT_S, Collector
from producer.feed import Feeder, JobQueue
from producer.first_jobs import FirstJobs, FirstJobsFailError
from producer.lease import Lease
from producer.ledger import LedgerError
from producer.model_choice import model_to_ask
from producer.outputs import Outputs, refuse_changed
from producer.question_planner import QuestionPlanner
from producer.references import Resolver
from producer.run import Run
from producer.run_folder import FINISHED, LEFT_RUNS, MODEL, OVERRIDES, RunFolder, free
from producer.sinks.kinds import open_sinks
from producer.sinks.sink import Sink
from producer.sources import Source, shown
from producer.uploads import Uploads
from producer.window import Window
from producer.workers import live_workers

FEEDER_ENDS_S: Final = 60.0
"""Seconds for another process to see that the run is stopped; it looks every few seconds."""
LOOK_EVERY_S: Final = 0.2


@dataclass(frozen=True)
class Work:
    """A run that this process drives."""

    folder: RunFolder
    run: Run
    collector: Collector | None
    outputs: Outputs | None

    def finish(self, keep_done_s: int) -> None:
        """After the last round: finish the outputs, and free the store except for the done bits."""
        if self.outputs is None or self.collector is None:
            return
        self.outputs.finish()
        self.collector.forget(keep_done_s)
        with self.folder.ledger.transaction():
            self.folder.ledger.state.set(FINISHED, True)


@contextmanager
def work_on(
    folder: RunFolder,
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
) -> Iterator[Work]:
    """The run, ready to be driven. The roles are held until the block ends.

    Without `window`, it grows with the live workers. Without `source`, the submission's is opened when it is
    needed. Without `keep_going`, FirstJobsFailError ends the run when its first jobs all fail for one reason,
    and these are asked again later. `own_workers` says that the caller has started the workers. Raises
    LedgerError, SourceError, SinkError and LiveModelError.
    """
    ledger, submission = folder.ledger, folder.submission
    reader = folder.reader(source)
    with ExitStack() as stack:
        feeder = collector = outputs = None
        lease = Lease(connection, folder.run, folder.path)
        lease.hold()
        first_jobs = FirstJobs(ledger, watched=collect and not keep_going)
        if feed:
            stack.enter_context(folder.role("feeder"))
            feeder = _feeder(folder, connection, queue, reader.read)
            stack.callback(feeder.close)
        if collect:
            stack.enter_context(folder.role("collector"))
            collector = Collector(connection, ledger, folder.run, first_jobs, submission.on_flag)
            refuse_changed([folder.contact_sheet])
            sinks = open_sinks(submission.sinks, folder.path, submission.sink_options, reader, folder.record)
            outputs = Outputs(ledger, folder.record, (*sinks, *further_sinks))
            stack.callback(outputs.close)
        run = Run(
            ledger,
            queue,
            connection,
            folder.run,
            feeder=feeder,
            collector=collector,
            outputs=outputs,
            window=Window(connection, window),
            first_jobs=first_jobs,
            lease=lease,
        )
        stack.callback(lease.end)
        try:
            yield Work(folder, run, collector, outputs)
        except FirstJobsFailError as stop:
            if not feed:
                _take_feeder(folder, connection, stack)
            raise _stopped(folder, stop, connection, own_workers=own_workers) from None


def _feeder(
    folder: RunFolder, connection: redis.Redis, queue: JobQueue, read: Callable[[int], bytes]
) -> Feeder:
    submission = folder.submission
    live = {worker.model for worker in live_workers(connection)}
    _free_left_runs(folder, connection)
    return Feeder(
        folder.ledger,
        queue,
        Uploads(connection, folder.run, submission.upload_budget_bytes),
        QuestionPlanner(
            submission.prompts, submission.parameters, submission.detail, folder.ledger.state.get(OVERRIDES)
        ),
        Resolver(read, ship=submission.ship, roots=submission.own_folders()),
        run=folder.run,
        model=_model(folder, live),
        on_flag=submission.on_flag,
    )


def _stopped(
    folder: RunFolder, stop: FirstJobsFailError, connection: redis.Redis, *, own_workers: bool
) -> FirstJobsFailError:
    """Withdraw the first jobs, so that they are asked again, and say what to do."""
    remedy = folder.remedies(folder.surroundings(connection, own=own_workers))[stop.code]
    folder.cancel(connection, [stop.code, FailureCode.DEPENDENCY_FAILED])
    return FirstJobsFailError(
        stop.code,
        stop.jobs,
        f"Stopped, as the first {counted(stop.jobs, 'job')} all failed with {stop.code}. {remedy} Then "
        f"give the same command again, or captionmill run --resume --out {shown(folder.path)}: all of them "
        "are asked again (with --keep-going, whatever they end in).",
    )


def _take_feeder(folder: RunFolder, connection: redis.Redis, stack: ExitStack) -> None:
    """Cancel the run, and take the feeder's role when its process has seen that."""
    connection.set(cancelled_key(folder.run), 1, ex=CANCELLED_KEPT_S)
    until = time.monotonic() + FEEDER_ENDS_S
    while True:
        try:
            stack.enter_context(folder.role("feeder"))
            return
        except LedgerError:
            if time.monotonic() > until:
                raise
        time.sleep(LOOK_EVERY_S)


def _free_left_runs(folder: RunFolder, connection: redis.Redis) -> None:
    left = folder.ledger.state.get(LEFT_RUNS)
    if left:
        for run in left:
            free(connection, run)
        with folder.ledger.transaction():
            folder.ledger.state.set(LEFT_RUNS, [])


def _model(folder: RunFolder, live: set[str]) -> str | None:
    """The model id for jobs, which earlier answers must have too; None takes any."""
    model = model_to_ask(folder.submission.model, live, folder.ledger.state.get(MODEL))
    if model is not None:
        with folder.ledger.transaction():
            folder.ledger.state.set(MODEL, model)
    return model
