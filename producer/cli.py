"""The `captionmill` command: reads its arguments, drives a run and tells how it went."""

import json
import re
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final, Literal, NoReturn

import redis
import typer
from pydantic import TypeAdapter, ValidationError
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry
from rich.console import Console

from contract.broker import VISIBILITY_TIMEOUT_S
from contract.job import Detail, GenerationParameters
from producer.client import BrokerAwayError, Client
from producer.collect import Collector
from producer.contact_sheet import write_contact_sheet
from producer.progress import show_progress
from producer.run import Run
from producer.run_folder import RunFolder
from producer.settings import Settings
from producer.sources import SourceError, open_source, shown

EXIT_FAILURES: Final = 1
EXIT_REFUSED: Final = 2
EXIT_INTERRUPTED: Final = 130

DEFAULTS: Final = GenerationParameters()
BEAMS: Final = "Beam search"
SAMPLING: Final = "Sampling"

app = typer.Typer(
    help="Answers questions about images in bulk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class EarlyStopping(StrEnum):
    """contract.job.GenerationParameters.early_stopping, in the form that the command line offers."""

    FALSE = "false"
    TRUE = "true"
    NEVER = "never"

    def as_parameter(self) -> bool | Literal["never"]:
        return "never" if self is EarlyStopping.NEVER else self is EarlyStopping.TRUE


def _detail(text: str) -> Detail:
    try:
        detail: Detail = TypeAdapter[Detail](Detail).validate_strings(text)
    except ValidationError:
        raise typer.BadParameter(f"{text!r} is neither low nor high nor a number of tiles.") from None
    return detail


@app.callback()
def _captionmill() -> None:
    """Keeps `run` a command of its own while it is the only one."""


@app.command()
def run(
    source: Annotated[
        Path, typer.Argument(help="Folder of images, or a manifest (.jsonl), one image a line.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for answers.jsonl and the contact sheet.")],
    question: Annotated[list[str] | None, typer.Option(help="Asked of every image; may be repeated.")] = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="An answer allowed to each --question; may be repeated.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Also the folders below.")] = False,
    redis_url: Annotated[
        str | None, typer.Option("--redis", help="Broker's URL; else CAPTIONMILL_REDIS_URL.")
    ] = None,
    detail: Annotated[
        Any,
        typer.Option(
            parser=_detail, metavar="low|high|N", help="One look, every tile, or at most N tiles of an image."
        ),
    ] = "high",
    max_new_tokens: Annotated[int, typer.Option(min=1)] = DEFAULTS.max_new_tokens,
    min_new_tokens: Annotated[int, typer.Option(min=0)] = DEFAULTS.min_new_tokens,
    stop: Annotated[
        list[str] | None, typer.Option(help="Ends an answer, which is cut before it; may be repeated.")
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1 avoids tokens that were there, the prompt's too.")
    ] = DEFAULTS.repetition_penalty,
    no_repeat_ngram_size: Annotated[
        int, typer.Option(min=0, help="Says no so many tokens in a row twice; 0 forbids nothing.")
    ] = DEFAULTS.no_repeat_ngram_size,
    num_return_sequences: Annotated[
        int, typer.Option(min=1, max=64, help="Of beams or samples; above 1 answers have alternatives.")
    ] = DEFAULTS.num_return_sequences,
    length_penalty: Annotated[
        float, typer.Option(help="For scores; above 0 favours longer beams and choices.")
    ] = DEFAULTS.length_penalty,
    num_beams: Annotated[int, typer.Option(min=1, max=64, rich_help_panel=BEAMS)] = DEFAULTS.num_beams,
    early_stopping: Annotated[
        EarlyStopping, typer.Option(help="Stop at the first num_beams finished ones.", rich_help_panel=BEAMS)
    ] = EarlyStopping.FALSE,
    do_sample: Annotated[
        bool, typer.Option("--do-sample", help="Draw tokens at random.", rich_help_panel=SAMPLING)
    ] = DEFAULTS.do_sample,
    temperature: Annotated[float, typer.Option(rich_help_panel=SAMPLING)] = DEFAULTS.temperature,
    top_k: Annotated[
        int, typer.Option(min=0, help="0 keeps every token.", rich_help_panel=SAMPLING)
    ] = DEFAULTS.top_k,
    top_p: Annotated[float, typer.Option(rich_help_panel=SAMPLING)] = DEFAULTS.top_p,
    min_p: Annotated[float, typer.Option(rich_help_panel=SAMPLING)] = DEFAULTS.min_p,
    seed: Annotated[
        int, typer.Option(min=0, help="Equal seeds draw equally.", rich_help_panel=SAMPLING)
    ] = DEFAULTS.seed,
    window: Annotated[int, typer.Option(min=1, help="Most jobs sent and not yet answered.")] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.")] = False,
) -> None:
    """Ask questions about images and collect the answers.

    Exit code: 0 if every question has an answer, 1 if some failed, 2 if the input is refused, 130 on Ctrl-C.
    """
    console = Console(stderr=as_json, markup=False, highlight=False, soft_wrap=True)
    try:
        parameters = GenerationParameters(
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            num_beams=num_beams,
            num_return_sequences=num_return_sequences,
            length_penalty=length_penalty,
            early_stopping=early_stopping.as_parameter(),
            do_sample=do_sample,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            repetition_penalty=repetition_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            stop=tuple(stop or ()),
        )
        url = redis_url or Settings().redis_url.get_secret_value()
        connection = _connect(url)
        rows = open_source(source, question or [], recursive=recursive, choices=choice or None)
        folder = RunFolder.create(out, _new_run_id(source), source, rows, parameters, detail)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"{part}: " for part in first["loc"])
        _refuse(f"{place}{first['msg'].removeprefix('Value error, ')}.")
    except SourceError as error:
        _refuse(str(error))
    except redis.RedisError as error:
        _refuse(f"Redis does not answer ({error}); is it running, and is --redis right?")
    except OSError as error:
        _refuse(f"The run cannot be written to {shown(out)}: {error.strerror}.")
    except KeyboardInterrupt:
        _refuse("Stopped before anything was sent.", EXIT_INTERRUPTED)
    with folder:
        client = Client(url, connection)
        collector = Collector(connection, folder)
        try:
            finished = _drive(Run(folder, client, collector, window), collector, folder, console)
        except (redis.RedisError, BrokerAwayError) as error:
            _refuse(f"Redis went away for good: {error}. {_so_far(collector, folder)}", EXIT_FAILURES)
        finally:
            client.close()
        if not finished:
            _refuse(f"Stopped. {_so_far(collector, folder)}", EXIT_INTERRUPTED)
        collector.forget(keep_done_s=2 * VISIBILITY_TIMEOUT_S)
        try:
            write_contact_sheet(
                folder.answered_in_order(), out / "contact_sheet.html", title=shown(source.resolve().name)
            )
        except KeyboardInterrupt:
            _refuse("Stopped while writing the contact sheet; answers.jsonl is complete.", EXIT_INTERRUPTED)
        _report(collector, folder, console, as_json=as_json)
    raise typer.Exit(EXIT_FAILURES if collector.failed_jobs else 0)


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


def _drive(work: Run, collector: Collector, folder: RunFolder, console: Console) -> bool:
    """False: a signal came before the last answer."""
    with _signals_as_flag() as stopped, show_progress(folder.record.jobs, console) as progress:
        for round_ in work.rounds():
            progress(collector.done_jobs, collector.failed_jobs, round_)
            if stopped:
                return False
    return True


@contextmanager
def _signals_as_flag() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM fill the list, so that a run ends between two rounds; a second one ends at once."""
    caught: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {
        number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _connect(url: str) -> redis.Redis:
    try:
        connection: redis.Redis = redis.Redis.from_url(url, socket_timeout=30, socket_connect_timeout=5)
    except ValueError as error:
        _refuse(f"--redis: {error}")
    connection.ping()
    # From here on an outage is waited out, for about a minute.
    connection.set_retry(Retry(ExponentialWithJitterBackoff(cap=5.0, base=0.2), 15))
    return connection


def _new_run_id(source: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.stem).strip("-")[:40] or "run"
    return f"{name}-{uuid.uuid4().hex[:12]}"


def _so_far(collector: Collector, folder: RunFolder) -> str:
    return (
        f"{collector.done_jobs} of {folder.record.jobs} jobs are in {shown(folder.path / 'answers.jsonl')}; "
        "jobs that were sent already will still be answered by the workers, but not collected."
    )


def _report(collector: Collector, folder: RunFolder, console: Console, *, as_json: bool) -> None:
    failed = sum(collector.failures.values())
    console.print(
        f"{folder.record.jobs} images: {collector.answered_questions} questions answered, {failed} failed.",
        highlight=False,
    )
    for code, count in collector.failures.most_common():
        console.print(f"  {count:6d}  {code}")
    console.print(f"Answers: {shown(folder.path / 'answers.jsonl')}")
    console.print(f"To look at: {shown(folder.path / 'contact_sheet.html')}")
    if as_json:
        summary = {
            "run": folder.record.run,
            "jobs": folder.record.jobs,
            "answered": collector.answered_questions,
            "failed": failed,
            "failures": dict(collector.failures),
            "answers": str(folder.path / "answers.jsonl"),
        }
        print(json.dumps(summary))


def _refuse(sentence: str, code: int = EXIT_REFUSED) -> NoReturn:
    print(f"captionmill: {sentence}", file=sys.stderr, flush=True)
    raise typer.Exit(code)


def main() -> None:
    """The console script."""
    app()
