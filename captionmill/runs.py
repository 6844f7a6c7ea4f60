"""The commands `run`, `submit`, `collect`, `retry` and `estimate`: they send or collect a run's jobs."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import redis
import typer
from rich.console import Console

from captionmill import config_file
from captionmill.app import RUNS, app, make_console
from captionmill.cache import cache_folder
from captionmill.dry_run import look, show
from captionmill.exits import EXIT_FAILURES, EXIT_INTERRUPTED, EXIT_NOT_WRITTEN, refuse, sentences
from captionmill.local_site import LOCAL_FOLDER, SiteError, forget_data, passing_folder
from captionmill.model_cache import check_model, is_demo, on_a_server
from captionmill.options import (
    RUNNING,
    Add,
    AsJson,
    ConfigFile,
    GenerationOptions,
    KeepGoing,
    LocalOptions,
    Model,
    OnFlag,
    Overwrite,
    QuestionOptions,
    RedisUrl,
    RunFolderPath,
    SinkChoices,
    SourceChoices,
    WindowSize,
    read_on_flag,
)
from captionmill.serving import Site, check_local, connected, own_site, server_or_none
from contract.counting import counted
from contract.failure import FailureCode
from contract.job import GenerationParameters
from contract.option_groups import with_groups
from producer.attendance import Attendance
from producer.connection import connect
from producer.estimate import Sample
from producer.estimate import estimate as measure
from producer.first_jobs import FirstJobsFailError
from producer.ledger import LedgerError
from producer.model_choice import folder_of, model_id, model_to_ask
from producer.outputs import Outputs
from producer.parameter_layers import layered
from producer.planner import Planned, Planner
from producer.planning import plan_run
from producer.progress import duration
from producer.question_planner import Flagged
from producer.questions import DEFAULT_QUESTION, read_prompts
from producer.queue import BrokerAwayError
from producer.run_console import drive, event, make_contact_sheet, report, summary, tell_answered
from producer.run_folder import RunFolder
from producer.settings import server_url
from producer.sinks.sink import SinkError
from producer.sources import place_of, shared_folder, shown
from producer.submission import Submission
from producer.work import work_on
from producer.worker_line import no_worker
from producer.workers import live_workers

DRY_ROWS: Final = 5
CHANGES: Final[Mapping[Flagged, str]] = {
    Flagged.REPETITION: "--repetition-penalty 1.1",
    Flagged.TRUNCATED: "--max-new-tokens 1024",
    Flagged.EMPTY: "--min-new-tokens 3",
}
"""Flag of an answer → an option that may avoid it."""
OUT_SUFFIX: Final = "-answers"
RESUMED: Final = frozenset(
    (
        *("resume", "out", "model", "redis_url", "window", "as_json", "overwrite", "keep_going"),
        *(one.name for one in fields(LocalOptions)),
    )
)
"""Parameters of `run` that have an effect with --resume."""


@app.command(rich_help_panel=RUNS, cls=config_file.ConfigurableCommand)
@with_groups
def run(
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            help="Images, folders, globs, manifests, datasets, shards or URLs; none with --resume.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run.", show_default=f"SOURCE{OUT_SUFFIX} here", rich_help_panel=RUNNING
        ),
    ] = None,
    add: Add = False,
    *,
    model: Model = None,
    questions: QuestionOptions,
    options: SourceChoices,
    generation: GenerationOptions,
    sinks: SinkChoices,
    local: LocalOptions,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out.", rich_help_panel=RUNNING)
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check the sources and show the first rows; send nothing.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    redis_url: RedisUrl = None,
    window: WindowSize = None,
    keep_going: KeepGoing = False,
    on_flag: OnFlag = None,
    as_json: AsJson = False,
    _config: ConfigFile = None,
    write_config: Annotated[
        Path | None,
        typer.Option(
            metavar="[FILE]",
            help="Write the options to a file for --config; send nothing.",
            show_default=f"{config_file.DEFAULT}",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    context: typer.Context,
) -> None:
    """Ask questions about images and collect the answers.

    With --model and no server, it starts a server and workers, and ends them at its end.

    Questions that are already answered in --out are not asked again. Exit code: 0 if every question has an
    answer, 1 if some failed, 2 if the input is refused, 3 if an output is not on disk, 130 on Ctrl-C.
    """
    console = make_console(as_json=as_json)
    with sentences():
        server = server_or_none(redis_url, local)
        if resume:
            _check_resumed(context)
            if out is None:
                refuse("--resume needs --out, the folder of the run to go on with.")
            if server is not None:
                change_model(out, model, server)
        else:
            if write_config is not None:
                source = source or [os.curdir]  # a file of options needs no source
            submission = make_submission(
                source, questions, options, generation, sinks, model, local=server is None
            ).model_copy(update={"on_flag": read_on_flag(on_flag or (), generation)})
            if write_config is not None:
                config_file.write_config(write_config, context)
                console.print(f"Written; use it with: captionmill run --config {shown(write_config)}")
                raise typer.Exit
            if dry_run:
                out = out or default_out(submission.sources)
                require_place_of_its_own(out, submission.sources)
                submission = submission.joined(out, add=add)
                looked, planned = look(submission, DRY_ROWS)
                tell_planned(planned, questions, console, as_json=as_json)
                show(looked, submission, planned.rows, console, as_json=as_json)
                raise typer.Exit
            if server is None:
                check_model(model)
                check_local(local)
            if out is None:
                out = default_out(submission.sources)
                console.print(f"The run's folder is {shown(out)} (--out names another one).")
            planned = plan(out, submission, server, add=add, overwrite=sinks.overwrite)
            tell_planned(planned, questions, console, as_json=as_json)
            if not planned.rows:
                console.print("There is nothing to ask.")
                raise typer.Exit
        if server is None and not sinks.overwrite and is_finished(out):
            raise typer.Exit(tell_finished(out, console, as_json=as_json))
        with serving(server, out, model, local, console) as site:
            code = work(
                out,
                site,
                console,
                window=window,
                as_json=as_json,
                keep_going=keep_going,
                model=model,
                overwrite=resume and sinks.overwrite,
            )
    raise typer.Exit(code)


@app.command(rich_help_panel=RUNS)
@with_groups
def submit(
    source: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="As for `run`.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.", rich_help_panel=RUNNING)],
    add: Add = False,
    *,
    questions: QuestionOptions,
    options: SourceChoices,
    generation: GenerationOptions,
    sinks: SinkChoices,
    redis_url: RedisUrl = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model that must answer, as model folder or id.",
            rich_help_panel=RUNNING,
            show_default="the workers'",
        ),
    ] = None,
    window: WindowSize = None,
    as_json: AsJson = False,
    _config: ConfigFile = None,
) -> None:
    """Send the jobs of a run without waiting for answers; `collect` fetches them."""
    console = make_console(as_json=as_json)
    with sentences():
        url = server_url(redis_url)
        submission = make_submission(source, questions, options, generation, sinks, model, local=False)
        planned = plan(out, submission, url, add=add, overwrite=sinks.overwrite)
        tell_planned(planned, questions, console, as_json=as_json)
        code = work(out, Site(url), console, window=window, as_json=as_json, collect=False, model=model)
    raise typer.Exit(code)


@app.command(rich_help_panel=RUNS)
def collect(
    folder: RunFolderPath,
    overwrite: Overwrite = False,
    redis_url: RedisUrl = None,
    window: WindowSize = None,
    keep_going: KeepGoing = False,
    as_json: AsJson = False,
) -> None:
    """Collect a run's answers, and send what is not sent yet unless a `submit` is running."""
    console = make_console(as_json=as_json)
    with sentences():
        opened = RunFolder(folder)
        try:
            with opened.role("feeder"):
                feed = True
        except LedgerError:
            feed = False
        opened.close()
        site = Site(server_url(redis_url))
        code = work(
            folder,
            site,
            console,
            window=window,
            as_json=as_json,
            feed=feed,
            keep_going=keep_going,
            overwrite=overwrite,
        )
    raise typer.Exit(code)


@app.command(rich_help_panel=RUNS)
@with_groups
def retry(
    folder: RunFolderPath,
    code: Annotated[
        list[FailureCode] | None,
        typer.Option(
            metavar="CODE", help=f"Only failures with this code: {', '.join(FailureCode)}; may be repeated."
        ),
    ] = None,
    flag: Annotated[
        list[Flagged] | None,
        typer.Option(
            metavar="FLAG",
            help="Answers with this flag (truncated, repetition or empty), asked with changed parameters; "
            "may be repeated.",
        ),
    ] = None,
    *,
    generation: GenerationOptions,
    model: Model = None,
    local: LocalOptions,
    overwrite: Overwrite = False,
    redis_url: RedisUrl = None,
    window: WindowSize = None,
    keep_going: KeepGoing = False,
    as_json: AsJson = False,
) -> None:
    """Ask failed questions again, with changed parameters if given.

    With --flag, ask questions whose answer has this flag, and write the better of both answers.
    """
    console = make_console(as_json=as_json)
    with sentences():
        server = server_or_none(redis_url, local)
        if server is not None:
            change_model(folder, model, server)
        codes = None if code is None else [str(one) for one in code]
        with closing(RunFolder(folder)) as opened:
            submission = opened.submission
            due = sum(n for one, n in opened.ledger.failures().items() if codes is None or one in codes)
            if server is None:
                if due or overwrite or not opened.finished:
                    check_model(model or submission.local_model)
            else:
                check_live(submission.model, server)
            changes = GenerationParameters.model_validate(
                layered(submission.parameters.model_dump(exclude_defaults=True), generation.changes())
            ).model_dump(mode="json")
            changed = {name: changes[name] for name in generation.changes()}
            if flag and not changed:
                refuse(
                    f"--flag {flag[0]} needs a parameter to change, such as {CHANGES[flag[0]]}: the same "
                    "question has the same answer."
                )
            with opened.role("feeder"), opened.role("collector"):
                count = opened.retry(codes, changed, flags=flag or (), overwrite=overwrite)
        kind = "question" if flag else "failed question"
        console.print(f"{counted(count, f'{kind} is', f'{kind}s are')} asked again.")
        if server is None and not overwrite and is_finished(folder):
            raise typer.Exit(tell_finished(folder, console, as_json=as_json))
        with serving(server, folder, model, local, console) as site:
            exit_code = work(
                folder, site, console, window=window, as_json=as_json, keep_going=keep_going, model=model
            )
    raise typer.Exit(exit_code)


@app.command(rich_help_panel=RUNS)
@with_groups
def estimate(
    source: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="As for `run`.")],
    *,
    model: Model = None,
    questions: QuestionOptions,
    options: SourceChoices,
    generation: GenerationOptions,
    local: LocalOptions,
    sample: Annotated[int, typer.Option(min=1, help="Rows to time, spread over the source.")] = 32,
    redis_url: RedisUrl = None,
    ship: Annotated[bool, typer.Option("--ship/--no-ship", help="As for `run`.", hidden=True)] = False,
    as_json: AsJson = False,
    _config: ConfigFile = None,
) -> None:
    """Time a sample of the source, and estimate the time for all of it."""
    console = make_console(as_json=as_json)
    with sentences(), passing_folder(cache_folder()) as folder:
        server = server_or_none(redis_url, local)
        submission = make_submission(
            source,
            questions,
            options,
            generation,
            SinkChoices(ship=ship),
            model,
            local=server is None,
        ).model_copy(update={"sinks": ()})
        if server is None:
            check_model(model)
        sample_of = Sample(submission.open(), sample)
        opened = RunFolder(folder / "run", create=True)
        planned = Planner(opened, submission, sample_of).plan(sampled=True)
        tell_planned(planned, questions, console, as_json=as_json)
        with serving(server, opened.path, model, local, console) as site:
            connection, queue = connected(site)
            if not site.own and not live_workers(connection):
                then = "so nothing can be timed"
                refuse(no_worker(site.url, then, folder_of(model), _seen_by_workers(opened)))
            found = measure(opened, sample_of, connection, queue, site.check, own_workers=site.own)
        if as_json:
            event("estimate", found)
        if found["failed_questions"]:
            _tell_failures(found, console, as_json=as_json)
        if as_json:
            return
        console.print(
            f"{found['sample_rows']} of {counted(found['rows'], 'row')} took {found['seconds']:.1f} s on "
            f"{counted(found['workers'], 'worker')}: {found['images_per_s']:.2f} images/s, "
            f"{found['tokens_per_s']:.1f} tokens/s."
        )
        console.print(
            f"All of them: {duration(found['total_s'])} (h:mm:ss), "
            f"{counted(round(found['total_tokens']), 'token')} generated, "
            f"{found['total_prompt_tokens']:.0f} read."
        )


def _tell_failures(found: dict[str, Any], console: Console, *, as_json: bool) -> NoReturn:
    """End the command with the failures of a sample."""
    if not as_json:
        for one in found["failures"]:
            console.print(f"  {one['questions']:6d}  {one['code']}, as of {one['row']}: {one['example']}")
    refuse(
        f"{counted(found['failed_questions'], 'question')} of the "
        f"{counted(found['sample_rows'], 'sample row')} failed, so there is no forecast.",
        EXIT_FAILURES,
    )


def make_submission(
    sources: list[str] | None,
    questions: QuestionOptions,
    options: SourceChoices,
    generation: GenerationOptions,
    sinks: SinkChoices,
    model: str | None,
    *,
    local: bool,
) -> Submission:
    """The submission of these options; `local` if --model names a model for workers to start."""
    if not sources:
        here = f" {config_file.DEFAULT} is here." if config_file.DEFAULT.exists() else ""
        refuse(
            "No source is named. Give a source, such as a folder of images; or --config FILE; or --resume "
            f"with --out.{here}"
        )
    prompts = read_prompts(questions.question or (), questions.questions, questions.choice or None)
    return Submission(
        sources=tuple(sources),
        options=options.options(),
        bad_rows=options.bad_rows,
        prompts=prompts or (DEFAULT_QUESTION,),
        parameters=GenerationParameters.model_validate(generation.changes()),
        detail=questions.detail,
        model=None if local or model is None else model_id(on_a_server(model)),
        local_model=_absolute_model(model) if local else None,
        ship=sinks.ship,
        upload_budget_bytes=sinks.ship_mib * 2**20,
        sinks=tuple(sinks.sink or ("jsonl",)),
        sink_options=sinks.options(),
        skip_answered=tuple(sinks.skip_answered or ()),
    )


def _check_resumed(context: typer.Context) -> None:
    """Refuse options that have no effect with --resume."""
    given = config_file.given(context)
    idle = [config_file.typed_name(param) for param in given if param.name not in RESUMED]
    if idle:
        refuse(
            f"--resume goes on with what was submitted, where {', '.join(idle)} would have no effect: "
            "give --out alone, or repeat the whole command without --resume."
        )


def _absolute_model(model: str | None) -> str | None:
    """A model folder's absolute path, so that the run can go on from another folder; else the name."""
    if model is None or is_demo(model) or not os.path.exists(model):
        return model
    return os.path.abspath(model)


def require_place_of_its_own(out: Path, sources: Sequence[str]) -> None:
    """Refuse a run's folder that is also the folder of its images."""
    for place in map(place_of, sources):
        if os.path.isdir(place) and out.exists() and os.path.samefile(place, out):
            refuse(
                f"--out {shown(out)} is the folder of the images themselves. Give the run a folder of its "
                "own; captions beside the images are written by --sink sidecar."
            )


def default_out(sources: Sequence[str]) -> Path:
    """A folder here, named after the source, or after the common folder of several sources."""
    places = [place_of(source) for source in sources]
    if len(places) > 1:
        places = [shared_folder([one if os.path.isdir(one) else one.rpartition("/")[0] for one in places])]
    name = os.path.basename(places[0]).split("*")[0] or "images"
    return Path(f"{name}{OUT_SUFFIX}")


def plan(
    out: Path, submission: Submission, server: str | None, *, add: bool = False, overwrite: bool = False
) -> Planned:
    """Write all rows of the sources into the ledger of `out`. Refuses first what no live worker could answer.

    With `add`, keeps the sources of the run that is already in `out`.
    """
    require_place_of_its_own(out, submission.sources)
    if server is not None:
        check_live(submission.model, server)
    submission = submission.joined(out, add=add)
    try:
        return plan_run(out, submission, submission.open(), overwrite=overwrite)
    except KeyboardInterrupt:
        refuse("Stopped before anything was sent.", EXIT_INTERRUPTED)


def tell_planned(planned: Planned, questions: QuestionOptions, console: Console, *, as_json: bool) -> None:
    """Print what may be unexpected about the sources, before the first job is sent."""
    if as_json:
        counts = {"rows": planned.rows, "gone": planned.gone, "answered_already": dict(planned.answered)}
        told = {"source_notes": list(planned.source_notes)} if planned.source_notes else {}
        event("planned", counts | {"skipped": planned.skipped.fields()} | planned.notes.fields() | told)
    for note in planned.source_notes:
        console.print(note)
    if planned.skipped:
        console.print(f"{planned.skipped.told()}.")
    tell_answered(planned.answered, console)
    if planned.gone:
        console.print(
            "No longer in the sources, and so no longer in the outputs: "
            f"{counted(planned.gone, 'row')} of the earlier run. Their answers are kept."
        )
    for sentence in planned.notes.told():
        console.print(sentence)
    if planned.asked_by_run and not questions.question and questions.questions is None:
        those = "" if planned.asked_by_run == planned.rows else " that bring no question"
        console.print(
            f"No --question is given, so this is asked of {counted(planned.asked_by_run, 'image')}{those}: "
            f'"{DEFAULT_QUESTION.text}"'
        )


def check_live(model: str | None, server: str) -> None:
    """Raises ServerError without a server, and LiveModelError if no live worker has this model."""
    with closing(connect(server)) as connection:
        model_to_ask(model, {one.model for one in live_workers(connection)}, None)


def change_model(out: Path, model: str | None, server: str) -> None:
    """Let `model`, if given, answer the rest of the run in `out`. Raises as check_live()."""
    if model is None:
        return
    wanted = model_id(on_a_server(model))
    check_live(wanted, server)
    opened = RunFolder(out)
    with opened.role("feeder"):
        opened.change_model(wanted)
    opened.close()


@contextmanager
def serving(
    server: str | None, out: Path, model: str | None, local: LocalOptions, console: Console
) -> Iterator[Site]:
    """The site that answers the run in `out`: the named server, or a site of this command's own."""
    if server is not None:
        yield Site(server)
        return
    with closing(RunFolder(out, read_only=True)) as opened:
        model = model or opened.submission.local_model
        image_folders = opened.image_folders
    place = out.absolute() / LOCAL_FOLDER
    with own_site(place, model, local, image_folders, console) as site:
        yield site
    with closing(RunFolder(out, read_only=True)) as finished:
        if finished.finished:
            forget_data(place)


def work(
    out: Path,
    site: Site,
    console: Console,
    *,
    window: int | None,
    as_json: bool,
    feed: bool = True,
    collect: bool = True,
    keep_going: bool = False,
    model: str | None = None,
    overwrite: bool = False,
) -> int:
    """Drive the run in `out` to its end. Returns the command's exit code.

    `model` is for the line that says how to start a worker. With `overwrite`, all outputs are written again
    over existing files.
    """
    connection, queue = connected(site)
    folder = RunFolder(out)
    if overwrite:
        folder.begin_outputs()
    before = folder.ledger.jobs.next_index()
    check = _checks(site, connection, folder, model, console, as_json=as_json, collect=collect)
    working = work_on(
        folder,
        connection,
        queue,
        feed=feed,
        collect=collect,
        window=window,
        keep_going=keep_going,
        own_workers=site.own,
    )
    try:
        with working as work:
            check()
            driven = drive(work, console, as_json=as_json, check=check)
    except FirstJobsFailError as stop:
        if as_json:
            event("stopped", {"code": stop.code, "jobs": stop.jobs, "message": str(stop)})
        raise
    except (redis.RedisError, BrokerAwayError) as error:
        refuse(f"Redis went away for good: {error}. {_so_far(folder)}", EXIT_FAILURES)
    except SiteError as error:
        refuse(f"{error}\n{_so_far(folder)}")
    except OSError:
        # If the whole folder has gone, say so instead of naming one output.
        folder.ledger.check_place()
        raise
    finally:
        queue.close()
    if not driven.finished:
        refuse(f"Stopped. {_so_far(folder)}", EXIT_INTERRUPTED)
    if not collect:
        console.print(f"Every job is sent; fetch the answers with: captionmill collect {shown(out)}")
        return 0
    assert driven.outputs is not None, "it collects"
    more = {
        "jobs_sent": folder.ledger.jobs.next_index() - before,
        "remedies": folder.remedies(folder.surroundings(connection, own=site.own)),
    }
    return finished(folder, driven.outputs, more, console, as_json=as_json)


def is_finished(out: Path) -> bool:
    """Whether the run in `out` has all its answers and outputs. Raises LedgerError."""
    with closing(RunFolder(out, read_only=True)) as opened:
        return opened.finished


def tell_finished(out: Path, console: Console, *, as_json: bool) -> int:
    """Print the summary of a run that is finished. Returns the exit code."""
    with closing(RunFolder(out, read_only=True)) as folder:
        return _tell_end(folder, None, {"jobs_sent": 0, "remedies": {}}, None, console, as_json=as_json)


def finished(
    folder: RunFolder, outputs: Outputs, more: Mapping[str, Any], console: Console, *, as_json: bool
) -> int:
    """Write the contact sheet and print the summary, with the fields of `more`. Returns the exit code."""
    missing = None
    try:
        make_contact_sheet(folder)
    except KeyboardInterrupt:
        refuse("Stopped while writing the contact sheet; the answers are complete.", EXIT_INTERRUPTED)
    except SinkError as error:
        missing = str(error)
    except OSError as error:
        missing = error.strerror or str(error)
    return _tell_end(folder, outputs, more, missing, console, as_json=as_json)


def _tell_end(
    folder: RunFolder,
    outputs: Outputs | None,
    more: Mapping[str, Any],
    missing: str | None,
    console: Console,
    *,
    as_json: bool,
) -> int:
    """Print summary and paths; `missing` says why there is no contact sheet. Returns the exit code."""
    found = summary(folder, outputs) | dict(more)
    page = folder.contact_sheet.path
    if missing is not None:
        first = {"id": None, "name": shown(page), "reason": missing}
        found["not_written"]["contact_sheet"] = {"count": 1, "first": [first]}
    tell(found, console, as_json=as_json)
    if not as_json:
        looked_at = "" if missing is not None else f"\nTo look at: {shown(folder.path / page.name)}"
        console.print(f"Answers: {shown(folder.path)}{looked_at}")
    if found["not_written"]:
        return EXIT_NOT_WRITTEN
    return EXIT_FAILURES if found["failed"] or found["complete"] < found["rows"] else 0


def _checks(
    site: Site,
    connection: redis.Redis,
    folder: RunFolder,
    model: str | None,
    console: Console,
    *,
    as_json: bool,
    collect: bool,
) -> Callable[[], None]:
    """The check between two rounds: this command's own workers, or whether any worker is live."""
    if site.own:
        return site.check

    def say(sentence: str, name: str, fields: dict[str, Any]) -> None:
        if as_json:
            event(name, fields)
        else:
            console.print(sentence)

    then = f"so the {'run' if collect else 'jobs'} will wait for one"
    known = folder_of(model) or folder_of(folder.submission.local_model)
    nobody = no_worker(site.url, then, known, _seen_by_workers(folder))
    return Attendance(connection, nobody, say).look


def _seen_by_workers(folder: RunFolder) -> tuple[Path, ...]:
    """The folders that the run's workers must be able to read."""
    return () if folder.submission.ship else folder.image_folders


def tell(found: dict[str, Any], console: Console, *, as_json: bool) -> None:
    """Print the summary of a run."""
    if as_json:
        event("summary", found)
    else:
        report(found, console)


def _so_far(folder: RunFolder) -> str:
    ledger = folder.ledger
    return (
        f"{ledger.complete_rows()} of {counted(ledger.rows(), 'row is', 'rows are')} answered and kept in "
        f"{shown(folder.path)}; go on with: captionmill run --resume --out {shown(folder.path)}"
    )
