"""The command line of the bench; it parses and prints, and knows not how anything is measured."""

import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markdown import Markdown

from bench.checkpoint import SIZES
from bench.contest import Contest, contests, only
from bench.folders import OWN_FORMATS, Folders, make_own, make_peers
from bench.machine import describe
from bench.peaks import measure_peaks
from bench.peer import Pool
from bench.report import Report
from bench.rounds import Rounds
from bench.works import Work, make_works
from contract.model_folder import LANGUAGE_XML

BREAKDOWN_EXIT_CODE = 1
REFUSED_EXIT_CODE = 2
TERMINATED_EXIT_CODE = 128 + signal.SIGTERM
PICTURES, NEW_TOKENS, RUNS = 16, 32, 3
QUICK_PICTURES, QUICK_NEW_TOKENS, QUICK_RUNS = 4, 8, 1
TEXT_WORDS = {"tiny": 200, "mid": 1730, "big": 1730}
"""Size of model → about as many tokens as a picture of 480 x 640 px and its question."""

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
progress = Console(stderr=True)


@app.callback()
def commands() -> None:
    """Measure Captionmill beside its peers."""


@app.command("engine")
def engine_command(
    size: Annotated[str, typer.Option(help=f"Shape of the random model: {', '.join(SIZES)}.")] = "mid",
    peers: Annotated[str | None, typer.Option(help="Names with commas between; all if not given.")] = None,
    works: Annotated[str | None, typer.Option(help="Names with commas between; all if not given.")] = None,
    runs: Annotated[int | None, typer.Option(min=1, help=f"Rounds; {RUNS} if not given.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Little work, 1 round, 1 setup of GenAI.")] = False,
    out: Annotated[Path, typer.Option(help="Keeps models, environments and results.")] = Path("bench-out"),
) -> None:
    """Measure this engine, GenAI, optimum-intel and transformers at the same work, taking turns."""
    if size not in SIZES:
        _refuse(f"There is no size {size!r}; there are {', '.join(SIZES)}.")
    folders = Folders(out.resolve(), size)
    pictures, new_tokens = (QUICK_PICTURES, QUICK_NEW_TOKENS) if quick else (PICTURES, NEW_TOKENS)
    all_works = make_works(pictures, new_tokens, TEXT_WORDS[size])
    chosen_works = tuple(all_works[name] for name in _chosen("works", works, list(all_works)))
    with tempfile.TemporaryDirectory(prefix="captionmill-bench-") as drawn:
        every = contests(folders, Path(drawn), try_schedulers=not quick)
        names = [contestant.name for contest in every for contestant in contest.contestants]
        chosen = frozenset(_chosen("peers", peers, list(dict.fromkeys(names))))
        held = only(every, chosen)
        rounds = Rounds(all_works, Path(drawn), Pool(folders.root), progress.log)
        try:
            make_own(folders, progress.log)
            make_peers(folders, progress.log)
            _measure(folders, held, chosen_works, rounds, runs or (QUICK_RUNS if quick else RUNS))
            if rounds.breakdowns:
                raise typer.Exit(BREAKDOWN_EXIT_CODE)
        except subprocess.CalledProcessError as error:
            _refuse(f"{error.cmd[0]} ended with {error.returncode}; its output is above.")
        finally:
            rounds.pool.only([])


@app.command("cohorts")
def cohorts_command(
    size: Annotated[str, typer.Option(help=f"Shape of the random model: {', '.join(SIZES)}.")] = "mid",
    weight_format: Annotated[str, typer.Option(help=f"Of our folder: {', '.join(OWN_FORMATS)}.")] = "fp16",
    out: Annotated[Path, typer.Option(help="Keeps models, environments and results.")] = Path("bench-out"),
) -> None:
    """Measure what docs/engine.md says of forking, merging and dropping rows."""
    from bench.cohorts import MANY_ROWS, CohortBench

    if size not in SIZES or weight_format not in OWN_FORMATS:
        _refuse(f"There is no {size!r} folder in {weight_format!r}.")
    folders = Folders(out.resolve(), size)
    make_own(folders, progress.log)
    bench = CohortBench(folders.own(weight_format) / LANGUAGE_XML, {})
    for what, milliseconds in bench.measure():
        print(f"| {what} | {milliseconds:.0f} ms |")
    profiled = CohortBench(folders.own(weight_format) / LANGUAGE_XML, {"PERF_COUNT": "YES"})
    for rows in (1, MANY_ROWS):
        for kind, milliseconds in profiled.profile(rows):
            print(f"| {kind} in a step of {rows} rows | {milliseconds:.1f} ms |")


def _measure(
    folders: Folders, held: tuple[Contest, ...], works: tuple[Work, ...], rounds: Rounds, runs: int
) -> None:
    """Everything in turn, written down after each work: a run may take hours."""
    progress.log("what the machine can do at best")
    report = Report(describe(folders.peers_python), measure_peaks(), held, works, rounds)
    path = folders.root / f"engine-{datetime.now(UTC):%Y%m%dT%H%M%S}.md"
    for contest in held:
        for work in works:
            rounds.hold(contest, work, runs)
            report.write(path)
    console = Console()
    # A pipe gets the tables as they are, with no width to fit into.
    console.print(Markdown(report.markdown())) if console.is_terminal else print(report.markdown())
    progress.log(f"written: {path} and {path.with_suffix('.json').name}")


def _chosen(what: str, wish: str | None, known: list[str]) -> list[str]:
    """The names in `wish`, all of `known` for None; an unknown one ends the command."""
    names = known if wish is None else [name.strip() for name in wish.split(",")]
    for name in names:
        if name not in known:
            _refuse(f"There is no {name!r} among the {what}; there are {', '.join(known)}.")
    return names


def _refuse(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(REFUSED_EXIT_CODE)


def main() -> None:
    """Run the command line. SIGTERM ends it as Ctrl-C does, its peers with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED_EXIT_CODE))
    app()


if __name__ == "__main__":
    main()
