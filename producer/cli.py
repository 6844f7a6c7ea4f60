"""The `captionmill` command: reads its arguments, drives runs and tells how they went."""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import redis
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from contract.answer import Answer
from contract.failure import FailureCode
from contract.job import GenerationParameters
from producer.ask import Asked, NoWorkerError, ask
from producer.asking import Asking, first_complaint
from producer.chat.desk import Desk
from producer.connection import ServerError, connect
from producer.driving import drive, event, make_contact_sheet, report, signals_as_flag, summary
from producer.estimate import estimate as measure
from producer.ledger import LEDGER, LedgerError
from producer.options import (
    RUNNING,
    GenerationOptions,
    QuestionOptions,
    SinkChoices,
    SourceChoices,
    read_detail,
    with_groups,
)
from producer.progress import duration
from producer.questions import read_prompts
from producer.queue import BrokerAwayError, Queue
from producer.run import WorkersCrashError
from producer.run_folder import RunFolder, Submission
from producer.settings import server_url
from producer.sinks.sink import SinkError
from producer.sources import SourceError, open_source, shown
from producer.top import connect_to_look, top, top_once
from producer.watching import watch as watch_folder
from producer.workers import live_workers

EXIT_FAILURES: Final = 1
EXIT_REFUSED: Final = 2
EXIT_INTERRUPTED: Final = 130
DRY_ROWS: Final = 5
EXPORTER_LOOK_S: Final = 0.2

app = typer.Typer(
    help="Answers questions about images in bulk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RedisUrl = Annotated[
    str | None,
    typer.Option("--redis", help="Broker's URL; else CAPTIONMILL_REDIS_URL.", rich_help_panel=RUNNING),
]
Folder = Annotated[Path, typer.Argument(help="The run's folder: --out of `run` or `submit`.")]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="Progress and the summary as lines of JSON on stdout.", rich_help_panel=RUNNING
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most jobs sent and not yet answered.",
        show_default="grows with the workers",
        rich_help_panel=RUNNING,
    ),
]


@app.command()
@with_groups
def run(
    source: Annotated[
        str | None,
        typer.Argument(help="Folder, glob, manifest, dataset, shards or URL; nothing with --resume."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder.", rich_help_panel=RUNNING)] = None,
    *,
    questions: QuestionOptions,
    options: SourceChoices,
    generation: GenerationOptions,
    sinks: SinkChoices,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out.", rich_help_panel=RUNNING)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the first jobs; send nothing.", rich_help_panel=RUNNING)
    ] = False,
    redis_url: RedisUrl = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model id that must answer.", rich_help_panel=RUNNING, show_default="the workers'"),
    ] = None,
    window: Window = None,
    as_json: AsJson = False,
) -> None:
    """Ask questions about images and collect the answers.

    What --out knows the answer to already is not asked again: more rows, a changed question or another model
    cost only what is new. Exit code: 0 if every question has an answer, 1 if some failed, 2 if the input is
    refused, 130 on Ctrl-C.
    """
    console = _console(as_json=as_json)
    with _sentences():
        if resume:
            if source is not None:
                _refuse("--resume goes on with what was submitted: give --out alone.")
            _work(_need(out), redis_url, console, window=window, as_json=as_json)
        submission = _submission(source, questions, options, generation, sinks, model)
        if dry_run:
            _dry_run(submission)
        out = _need(out)
        _plan(out, submission, redis_url)
        _work(out, redis_url, console, window=window, as_json=as_json)


@app.command()
@with_groups
def submit(
    source: Annotated[str, typer.Argument(help="As for `run`.")],
    out: Annotated[Path, typer.Option(help="The run's folder.", rich_help_panel=RUNNING)],
    *,
    questions: QuestionOptions,
    options: SourceChoices,
    generation: GenerationOptions,
    sinks: SinkChoices,
    redis_url: RedisUrl = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model id that must answer.", rich_help_panel=RUNNING, show_default="the workers'"),
    ] = None,
    window: Window = None,
    as_json: AsJson = False,
) -> None:
    """Send the jobs of a run and end when the last one is sent; `collect` fetches the answers."""
    console = _console(as_json=as_json)
    with _sentences():
        _plan(out, _submission(source, questions, options, generation, sinks, model), redis_url)
        _work(out, redis_url, console, window=window, as_json=as_json, collect=False)


@app.command()
def collect(
    folder: Folder, redis_url: RedisUrl = None, window: Window = None, as_json: AsJson = False
) -> None:
    """Collect a run's answers; sends what is not sent yet, unless a `submit` is at it."""
    console = _console(as_json=as_json)
    with _sentences():
        opened = RunFolder(folder)
        try:
            with opened.role("feeder"):
                feed = True
        except LedgerError:
            feed = False
        opened.close()
        _work(folder, redis_url, console, window=window, as_json=as_json, feed=feed)


@app.command()
def watch(folder: Folder, as_json: AsJson = False) -> None:
    """Show how far a run is until it is finished; ends nothing when it is ended."""
    with _sentences():
        opened = RunFolder(folder, read_only=True)
        watch_folder(opened, _console(as_json=as_json), as_json=as_json)
        _tell(summary(opened), _console(as_json=as_json), as_json=as_json)


@app.command()
def status(folder: Folder, as_json: AsJson = False) -> None:
    """Say how far a run is, by outcome."""
    with _sentences():
        _tell(summary(RunFolder(folder, read_only=True)), _console(as_json=as_json), as_json=as_json)


@app.command("list")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Where runs' folders are.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder and its folders."""
    with _sentences():
        table = Table("folder", "source", "rows", "complete", "failed questions", "state")
        for ledger in sorted(folder.glob(f"**/{LEDGER}")):
            try:
                found = summary(RunFolder(ledger.parent, read_only=True))
            except LedgerError as error:
                found = {"folder": shown(ledger.parent), "error": str(error)}
            if as_json:
                event("run", found)
            elif "error" in found:
                table.add_row(found["folder"], "", "", "", "", found["error"])
            else:
                state = "finished" if found["finished"] else "unfinished"
                cells = (found[name] for name in ("folder", "source", "rows", "complete", "failed"))
                table.add_row(*map(str, cells), state)
        if not as_json:
            _console(as_json=False).print(table)


@app.command()
def cancel(folder: Folder, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Withdraw what was sent and is not answered. `run --resume` asks it again."""
    with _sentences():
        opened = RunFolder(folder)
        with opened.role("feeder"), opened.role("collector"):
            withdrawn = opened.cancel(connect(server_url(redis_url)))
        if as_json:
            event("cancelled", {"jobs": withdrawn})
        else:
            _console(as_json=False).print(f"{withdrawn} jobs withdrawn; answers so far are kept.")


@app.command()
@with_groups
def retry(
    folder: Folder,
    code: Annotated[
        list[FailureCode] | None, typer.Option(help="Only failures of this code; may be repeated.")
    ] = None,
    *,
    generation: GenerationOptions,
    redis_url: RedisUrl = None,
    window: Window = None,
    as_json: AsJson = False,
) -> None:
    """Ask failed questions again, with changed parameters if any are given."""
    console = _console(as_json=as_json)
    with _sentences():
        opened = RunFolder(folder)
        changes = GenerationParameters.model_validate(
            opened.submission.parameters.model_dump(exclude_defaults=True) | generation.changes()
        ).model_dump(mode="json")
        with opened.role("feeder"), opened.role("collector"):
            count = opened.retry(
                None if code is None else [str(one) for one in code],
                {name: changes[name] for name in generation.changes()},
            )
        opened.close()
        console.print(f"{count} failed questions are asked again.")
        _work(folder, redis_url, console, window=window, as_json=as_json)


@app.command()
@with_groups
def estimate(
    source: Annotated[str, typer.Argument(help="As for `run`.")],
    *,
    questions: QuestionOptions,
    options: SourceChoices,
    generation: GenerationOptions,
    sample: Annotated[int, typer.Option(min=1, help="Rows to time, spread over the source.")] = 32,
    redis_url: RedisUrl = None,
    ship: Annotated[bool, typer.Option("--ship", help="As for `run`.")] = False,
    as_json: AsJson = False,
) -> None:
    """Time a sample on the live workers, and say what the whole source would take."""
    with _sentences():
        submission = _submission(source, questions, options, generation, SinkChoices(ship=ship), None)
        connection, queue = _connected(redis_url)
        if not live_workers(connection):
            raise NoWorkerError("No worker is there to be timed; start one.")
        with tempfile.TemporaryDirectory(prefix="captionmill-") as folder:
            found = measure(submission, Path(folder), connection, queue, sample)
        if as_json:
            event("estimate", found)
            return
        console = _console(as_json=False)
        console.print(
            f"{found['sample_rows']} of {found['rows']} rows took {found['seconds']:.1f} s on "
            f"{found['workers']} workers: {found['images_per_s']:.2f} images/s, "
            f"{found['tokens_per_s']:.1f} tokens/s, {found['failed_questions']} questions failed."
        )
        console.print(
            f"All of them: {duration(found['total_s'])} (h:mm:ss), {found['total_tokens']:.0f} tokens "
            f"generated, {found['total_prompt_tokens']:.0f} read."
        )


@app.command("ask")
@with_groups
def ask_one(
    image: Annotated[str, typer.Argument(help="File or URL; `-` for none.")],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    choice: Annotated[list[str] | None, typer.Option(help="An answer allowed; may be repeated.")] = None,
    detail: Annotated[str, typer.Option(metavar="low|high|N", help="How closely to look.")] = "high",
    *,
    generation: GenerationOptions,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Ask one question and print its answer as it comes, ahead of all runs."""
    with _sentences():
        connection, queue = _connected(redis_url)
        asked = Asked(
            image=None if image == "-" else image,
            question=question,
            parameters=GenerationParameters.model_validate(generation.changes()),
            detail=read_detail(detail),
            choices=tuple(choice) if choice else None,
        )
        pieces: list[str] = []

        def write(piece: str) -> None:
            pieces.append(piece)
            print(piece, end="", flush=True)

        outcome = ask(connection, queue, asked, None if as_json else write)
        if as_json:
            event("answer", outcome.model_dump(mode="json"))
        elif isinstance(outcome, Answer):
            print("" if pieces else outcome.text)
        if not isinstance(outcome, Answer):
            _refuse(f"{outcome.code}: {outcome.message}", EXIT_FAILURES)


@app.command("top")
def show_server(
    redis_url: RedisUrl = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end; 2 if Redis is away.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each look.")] = False,
) -> None:
    """Show workers, queues, runs and the server's memory, live. Needs to read only."""
    with _sentences():
        connection = connect_to_look(server_url(redis_url))
        if once:
            top_once(connection, Console(markup=False, highlight=False), as_json=as_json)
        else:
            top(connection, Console(markup=False, highlight=False), every, as_json=as_json)


@app.command()
def chat(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
    password: Annotated[
        str | None, typer.Option(help="Asked of whoever opens the page; needed beyond this machine.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="File with the password, which lists of processes do not show.")
    ] = None,
    upload_max_bytes: Annotated[
        int, typer.Option(min=1, help="Largest image; workers have their own bound.")
    ] = 50_000_000,
    demo_model: Annotated[
        bool, typer.Option("--demo", help="Start a broker and a worker with the demo model here.")
    ] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Open a page to try images, questions and settings on, ahead of all runs."""
    if find_spec("gradio") is None:
        _refuse("The chat page needs Gradio: pip install 'captionmill[chat]'")
    from demo.samples import examples
    from producer.chat.server import is_loopback, serve

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with _sentences(), ExitStack() as stack:
        if password_file is not None:
            if password is not None:
                _refuse("Give --password or --password-file, not both.")
            password = password_file.read_text(encoding="utf-8").strip()
        if not password and (password is not None or not is_loopback(host)):
            _refuse(f"A page on {host} needs a --password: others could use it and read its images.")
        if demo_model:
            if redis_url is not None:
                _refuse("--demo starts a broker of its own: leave --redis out.")
            from demo.processes import demo_worker

            redis_url = stack.enter_context(demo_worker())
        serve(
            Desk(server_url(redis_url)),
            examples(),
            host=host,
            port=port,
            password=password,
            upload_max_bytes=upload_max_bytes,
            on_ready=lambda url: print(f"The chat page is at {url} (Ctrl-C ends it).", flush=True),
        )


@app.command()
def exporter(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 9808,
    redis_url: RedisUrl = None,
) -> None:
    """Serve what queues, store and workers are like to Prometheus, at /metrics, until a signal comes."""
    from producer.exporter import serve

    with _sentences(), signals_as_flag() as stopped:
        try:
            close = serve(server_url(redis_url), host, port)
        except ValueError:
            _refuse("The URL of Redis is not one; it begins with redis://, rediss:// or unix://.")
        except OSError as error:
            _refuse(f"{host}:{port} cannot be opened: {error.strerror}.")
        print(f"captionmill exporter: http://{host}:{port}/metrics", flush=True)
        while not stopped:
            time.sleep(EXPORTER_LOOK_S)
        close()


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the answers, the contact sheet and the worker's log.")
    ] = Path("captionmill-demo"),
    stop_with_parent: Annotated[
        bool, typer.Option("--stop-with-parent", help="Also stop when the calling process dies.")
    ] = False,
) -> None:
    """Start a broker and a worker here and caption the sample images with the demo model."""
    from demo.run import main as demo_main

    raise typer.Exit(demo_main(out, stop_with_parent=stop_with_parent))


def _submission(
    source: str | None,
    questions: QuestionOptions,
    options: SourceChoices,
    generation: GenerationOptions,
    sinks: SinkChoices,
    model: str | None,
) -> Submission:
    if source is None:
        _refuse("What shall be answered? Give a source, or --resume.")
    return Submission(
        source=source,
        options=options.options(),
        prompts=read_prompts(questions.question or (), questions.questions, questions.choice or None),
        parameters=GenerationParameters.model_validate(generation.changes()),
        detail=questions.detail,
        model=model,
        ship=sinks.ship,
        upload_budget_bytes=sinks.ship_mib * 2**20,
        sinks=tuple(sinks.sink or ("jsonl",)),
        sink_options=sinks.options(),
    )


def _dry_run(submission: Submission) -> NoReturn:
    """Print what the first rows would be asked."""
    asking = Asking(submission.prompts, submission.parameters, submission.detail)
    opened = open_source(submission.source, submission.options)
    for number, row in enumerate(opened.rows()):
        if number == DRY_ROWS:
            break
        asking.check(row)
        fields: dict[str, Any] = {"id": shown(row.id), "image": None, "detail": asking.detail(row)}
        if row.image is not None:
            fields["image"] = row.image.model_dump(mode="json")
        fields["questions"] = [
            {
                "id": wish.id,
                "prompt": wish.prompt,
                "parameters": wish.parameters.model_dump(mode="json", exclude_defaults=True),
            }
            for wish in asking.ready(row, {})
        ]
        event("job", fields)
    raise typer.Exit


def _plan(out: Path, submission: Submission, redis_url: str | None) -> None:
    """Note the whole source in the run's folder."""
    connect(server_url(redis_url)).close()
    opened = open_source(submission.source, submission.options)
    folder = RunFolder(out, create=True)
    try:
        with folder.role("feeder"), folder.role("collector"):
            folder.plan(submission, opened)
    except KeyboardInterrupt:
        _refuse("Stopped before anything was sent.", EXIT_INTERRUPTED)
    finally:
        folder.close()


def _work(
    out: Path,
    redis_url: str | None,
    console: Console,
    *,
    window: int | None,
    as_json: bool,
    feed: bool = True,
    collect: bool = True,
) -> NoReturn:
    """Drive the run in `out` and end the command."""
    connection, queue = _connected(redis_url)
    folder = RunFolder(out)
    before = folder.ledger.next_index()
    try:
        with folder.work(connection, queue, feed=feed, collect=collect, window=window) as work:
            driven = drive(work, console, as_json=as_json)
    except (redis.RedisError, BrokerAwayError) as error:
        _refuse(f"Redis went away for good: {error}. {_so_far(folder)}", EXIT_FAILURES)
    finally:
        queue.close()
    if not driven.finished:
        _refuse(f"Stopped. {_so_far(folder)}", EXIT_INTERRUPTED)
    if not collect:
        console.print(f"Every job is sent; fetch the answers with: captionmill collect {shown(out)}")
        raise typer.Exit
    try:
        page = make_contact_sheet(folder)
    except KeyboardInterrupt:
        _refuse("Stopped while writing the contact sheet; the answers are complete.", EXIT_INTERRUPTED)
    found = summary(folder, driven.outputs) | {"jobs_sent": folder.ledger.next_index() - before}
    _tell(found, console, as_json=as_json)
    if not as_json:
        console.print(f"Answers: {shown(out)}\nTo look at: {shown(page)}")
    raise typer.Exit(EXIT_FAILURES if found["failed"] else 0)


def _tell(found: dict[str, Any], console: Console, *, as_json: bool) -> None:
    if as_json:
        event("summary", found)
    else:
        report(found, console)


def _so_far(folder: RunFolder) -> str:
    ledger = folder.ledger
    return (
        f"{ledger.complete_rows()} of {ledger.rows()} rows are answered and kept in {shown(folder.path)}; "
        f"go on with: captionmill run --resume --out {shown(folder.path)}"
    )


def _console(*, as_json: bool) -> Console:
    return Console(stderr=as_json, markup=False, highlight=False, soft_wrap=True)


def _need(out: Path | None) -> Path:
    if out is None:
        _refuse("--out is needed: the folder of the run.")
    return out


def _connected(redis_url: str | None) -> tuple[redis.Redis, Queue]:
    url = server_url(redis_url)
    connection = connect(url)
    return connection, Queue(url, connection)


@contextmanager
def _sentences() -> Iterator[None]:
    """What a person can act on becomes one sentence and an exit code; bugs stay exceptions."""
    try:
        yield
    except ValidationError as invalid:
        _refuse(first_complaint(invalid))
    except (SourceError, LedgerError, SinkError, ServerError, NoWorkerError, WorkersCrashError) as error:
        _refuse(str(error))
    except (redis.RedisError, BrokerAwayError) as error:
        _refuse(f"Redis does not answer ({error}); is it running, and is --redis right?")
    except OSError as error:
        _refuse(f"{shown(error.filename or 'A file')} cannot be used: {error.strerror or error}.")
    except KeyboardInterrupt:
        _refuse("Stopped.", EXIT_INTERRUPTED)


def _refuse(sentence: str, code: int = EXIT_REFUSED) -> NoReturn:
    print(f"captionmill: {sentence}", file=sys.stderr, flush=True)
    raise typer.Exit(code)


def main() -> None:
    """The console script."""
    app()
