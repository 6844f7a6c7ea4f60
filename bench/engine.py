"""The measurement `engine`: this engine beside its peers on every workload; knows no engine itself."""

import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markdown import Markdown

from bench.comparisons import Contest, contests, only
from bench.folders import Folders, make_own, make_peers
from bench.machine import describe
from bench.options import OUT, ModelSize, Out, chosen, progress, refuse
from bench.peer import Pool
from bench.report import Report
from bench.roofline import measure_peaks
from bench.rounds import Rounds
from bench.workloads import Work, make_works

BREAKDOWN_EXIT_CODE: Final = 1
PICTURES, NEW_TOKENS, RUNS = 16, 32, 3
QUICK_PICTURES, QUICK_NEW_TOKENS, QUICK_RUNS = 4, 8, 1
TEXT_WORDS: Final = {"tiny": 200, "mid": 1730, "big": 1730}
"""Size of model → words that make about as many tokens as a picture of 480 x 640 px and its question."""


def main(
    size: ModelSize = "mid",
    peers: Annotated[str | None, typer.Option(help="Names with commas between; all if not given.")] = None,
    works: Annotated[str | None, typer.Option(help="Names with commas between; all if not given.")] = None,
    runs: Annotated[int | None, typer.Option(min=1, help=f"Rounds; {RUNS} if not given.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Little work, 1 round, 1 setup of GenAI.")] = False,
    out: Out = OUT,
) -> None:
    """Compare this engine with GenAI, optimum-intel and transformers on the same work, in turns."""
    folders = Folders(out.resolve(), size)
    pictures, new_tokens = (QUICK_PICTURES, QUICK_NEW_TOKENS) if quick else (PICTURES, NEW_TOKENS)
    all_works = make_works(pictures, new_tokens, TEXT_WORDS[size])
    chosen_works = tuple(all_works[name] for name in chosen("works", works, list(all_works)))
    with tempfile.TemporaryDirectory(prefix="captionmill-bench-") as drawn:
        every = contests(folders, Path(drawn), try_schedulers=not quick)
        names = [contestant.name for contest in every for contestant in contest.contestants]
        held = only(every, frozenset(chosen("peers", peers, list(dict.fromkeys(names)))))
        rounds = Rounds(all_works, Path(drawn), Pool(folders.root), progress.log)
        try:
            make_own(folders, progress.log)
            make_peers(folders, progress.log)
            _measure(folders, held, chosen_works, rounds, runs or (QUICK_RUNS if quick else RUNS))
            if rounds.breakdowns:
                raise typer.Exit(BREAKDOWN_EXIT_CODE)
        except subprocess.CalledProcessError as error:
            refuse(f"{error.cmd[0]} ended with {error.returncode}; its output is above.")
        finally:
            rounds.pool.only([])


def _measure(
    folders: Folders, held: tuple[Contest, ...], works: tuple[Work, ...], rounds: Rounds, runs: int
) -> None:
    """Run every contest; the report is written after each work, as all may take hours."""
    progress.log("what the machine can do at best")
    report = Report(describe(folders.peers_python), measure_peaks(), held, works, rounds)
    path = folders.root / f"engine-{datetime.now(UTC):%Y%m%dT%H%M%S}.md"
    for contest in held:
        for work in works:
            rounds.hold(contest, work, runs)
            report.write(path)
    console = Console()
    # A pipe gets the plain tables, which need no width.
    console.print(Markdown(report.markdown())) if console.is_terminal else print(report.markdown())
    progress.log(f"written: {path} and {path.with_suffix('.json').name}")
