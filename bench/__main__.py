"""The command line of the bench; it parses and prints, and knows not how anything is measured."""

import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markdown import Markdown

from bench.checkpoint import SHAPES, SIZES, name_as_published, write_shape
from bench.comparisons import Contest, contests, only
from bench.fleet import Fleet
from bench.fleet_costs import measure
from bench.fleet_report import checks, first_to_break, fleets
from bench.folders import OWN_FORMATS, Folders, make_own, make_peers
from bench.machine import describe
from bench.peer import Pool
from bench.report import Report
from bench.roofline import measure_peaks
from bench.rounds import Rounds
from bench.workloads import MIXED_SIZES_PX, Work, draw, make_works
from contract.model_folder import LANGUAGE_XML
from model_prep.convert import convert
from model_prep.settings import PRESETS, PrepSettings
from model_prep.verified import VERIFICATION_MD

BREAKDOWN_EXIT_CODE = 1
REFUSED_EXIT_CODE = 2
TERMINATED_EXIT_CODE = 128 + signal.SIGTERM
PICTURES, NEW_TOKENS, RUNS = 16, 32, 3
QUICK_PICTURES, QUICK_NEW_TOKENS, QUICK_RUNS = 4, 8, 1
DEMO = Path(__file__).parents[1] / "demo"
INTEROP_PICTURES = 6
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


@app.command("interop")
def interop_command(
    out: Annotated[Path, typer.Option(help="Keeps models, environments and results.")] = Path("bench-out"),
) -> None:
    """Ask the same of our folder and of optimum-intel's export, in the worker, GenAI and optimum-intel."""
    from bench.interop import compare

    folders = Folders(out.resolve(), "demo")
    if not folders.checkpoint.exists():
        shutil.copytree(DEMO / "model" / "checkpoint", folders.checkpoint)
        name_as_published(folders.checkpoint)
    own = folders.root / "ours-exact"
    if not own.exists():
        progress.log("our folder")
        settings = PRESETS["exact"].model_copy(update={"openvino_tokenizer": True})
        convert(str(folders.checkpoint), own, settings, name="demo")
    try:
        make_peers(folders, progress.log, formats=["fp16"])
    except subprocess.CalledProcessError as error:
        _refuse(f"{error.cmd[0]} ended with {error.returncode}; its output is above.")
    pictures = sorted((DEMO / "images").glob("*.png"))[:INTEROP_PICTURES]
    print("| folder | program | picture | says |\n| --- | --- | --- | --- |")
    for said in compare(own, folders.optimum("fp16"), folders.peers_python, pictures):
        print(f"| {said.folder} | {said.program} | {said.picture} | {said.text} |", flush=True)


@app.command("prep")
def prep_command(
    shape: Annotated[
        str, typer.Option(help=f"Of the random model: {', '.join([*SHAPES, *SIZES])}.")
    ] = "llava-v1.6-mistral-7b",
    weight_format: Annotated[str, typer.Option(help="Of the language model.")] = "int4",
    vision_format: Annotated[str, typer.Option(help="Of the vision model.")] = "int8",
    samples: Annotated[int, typer.Option(min=1, help="Pictures to calibrate with.")] = 8,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Of the language model, in place of the shape's own.")
    ] = None,
    memory_gib: Annotated[
        float | None, typer.Option(min=0, help="For verifying, in place of what is available.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Keeps nothing but the figures.")] = Path("bench-out"),
) -> None:
    """Convert a checkpoint of a published shape, and have a worker answer with it: memory, disk, minutes."""
    from bench.prep import VERIFYING, measure_conversion, share_of

    shapes = SHAPES | SIZES
    if shape not in shapes:
        _refuse(f"There is no shape {shape!r}; there are {', '.join(shapes)}.")
    try:
        settings = PrepSettings.model_validate(
            {
                "language": {"weight_format": weight_format},
                "vision": {"vision_format": vision_format},
                "samples": samples,
            }
        )
    except ValidationError as invalid:
        _refuse(f"{invalid.errors()[0]['loc'][-1]}: {invalid.errors()[0]['msg']}.")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prep-", dir=out) as folder:
        work = Path(folder)
        progress.log("random weights")
        size = shapes[shape] if layers is None else replace(shapes[shape], text_layers=layers)
        write_shape(size, work / "checkpoint")
        (work / "pictures").mkdir()
        for seed in range(samples):
            draw(MIXED_SIZES_PX[seed % len(MIXED_SIZES_PX)], seed).save(work / "pictures" / f"{seed}.png")
        print(f"{describe(None)}\n")
        print("| stage | minutes | peak resident, GiB | private at its end, GiB | disk at its end, GB |")
        print("| --- | ---: | ---: | ---: | ---: |", flush=True)
        made = work / "made" / "folder"
        stages = []
        for figures in measure_conversion(
            work / "checkpoint", made, settings.model_dump_json(), work / "pictures", memory_gib
        ):
            stages.append(figures)
            print(
                f"| {figures.stage} | {figures.seconds / 60:.1f} "
                f"| {figures.peak_resident_bytes / 2**30:.1f} | {figures.private_bytes / 2**30:.1f} "
                f"| {figures.disk_bytes / 1e9:.1f} |",
                flush=True,
            )
        for path in sorted(made.glob("*.bin")):
            print(f"\n{path.name}: {path.stat().st_size / 1e9:.2f} GB")
        print(f"\n{share_of(VERIFYING, stages):.0%} of the conversion was verifying.\n")
        print((made / VERIFICATION_MD).read_text(), end="")


@app.command("fleet")
def fleet_command(
    images: Annotated[float, typer.Option(min=1, help="Of the run.")] = 1e8,
    images_per_worker_s: Annotated[float, typer.Option(min=1e-6, help="All slots busy.")] = 0.5,
    slots: Annotated[int, typer.Option(min=1, help="Jobs at once in a worker.")] = 16,
    alone_s: Annotated[float, typer.Option(min=1e-6, help="Of one job with nothing else under way.")] = 8.0,
    worker_mtbf_h: Annotated[float, typer.Option(min=1e-6, help="Between deaths of one worker.")] = 168.0,
    worker_restart_s: Annotated[float, typer.Option(min=0)] = 120.0,
    server_mtbf_h: Annotated[float, typer.Option(min=1e-6)] = 168.0,
    server_down_s: Annotated[float, typer.Option(min=0)] = 60.0,
    producer_mtbf_h: Annotated[float, typer.Option(min=1e-6)] = 48.0,
    producer_restart_s: Annotated[float, typer.Option(min=0)] = 300.0,
    poison: Annotated[float, typer.Option(min=0, max=1, help="Share of jobs that kill workers.")] = 1e-6,
    check: Annotated[bool, typer.Option("--check", help="Compare with real processes too.")] = False,
) -> None:
    """Say what many workers on one server and one producer do, from what each costs here."""
    costs = measure(slots)
    print(f"{describe(None)}\n\n{costs}\n")
    base = Fleet(
        images=images,
        workers=1000,
        images_per_worker_s=images_per_worker_s,
        slots=slots,
        alone_s=alone_s,
        worker_mtbf_s=3600 * worker_mtbf_h,
        worker_restart_s=worker_restart_s,
        server_mtbf_s=3600 * server_mtbf_h,
        server_down_s=server_down_s,
        producer_mtbf_s=3600 * producer_mtbf_h,
        producer_restart_s=producer_restart_s,
        poison=poison,
    )
    for line in fleets(base, costs):
        print(line, flush=True)
    print()
    for line in first_to_break(base, costs):
        print(line)
    if check:
        print("\n| workers | rows | s of a job | one dies | real s | simulated s |")
        print("| ---: | ---: | ---: | --- | ---: | ---: |")
        for found in checks(costs):
            dies = "yes" if found["dies"] else "no"
            print(
                f"| {found['workers']} | {found['rows']} | {found['job_s']} | {dies} "
                f"| {found['real_s']:.1f} | {found['simulated_s']:.1f} |",
                flush=True,
            )


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


def _chosen(what: str, named: str | None, known: list[str]) -> list[str]:
    """The names in `named`, all of `known` for None; an unknown one ends the command."""
    names = known if named is None else [name.strip() for name in named.split(",")]
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
