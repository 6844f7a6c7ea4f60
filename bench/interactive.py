"""The measurement `interactive`: time to first token, alone and beside a bulk run; knows no engine."""

import csv
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bench.machine import write_figures
from bench.options import DEMO_FOLDER, OUT, ModelFolder, Out
from bench.server import READY_S, celery_worker, module, process, server, wait_until_ready
from bench.workloads import draw
from contract.broker import JOB_QUEUE
from contract.job import GenerationParameters
from contract.store import done_key
from producer.ask import InteractiveQuestion, Waiting
from producer.connection import connect
from producer.queue import Queue

QUESTION: Final = "Describe the image."
FILL_S: Final = 4.0
"""Seconds from the run's first answer until all rows are busy and sending is steady."""
BULK_S: Final = 10.0
"""Seconds for which bulk work alone is counted."""
SHORTEST_PAUSE_S: Final = 0.1
IMAGES: Final = 32
"""Images of the bulk run, which repeat with another question each time."""
NEW_TOKENS: Final = 128
"""Tokens of each bulk answer."""
ROWS: Final = 20_000
"""Rows of the bulk run, more than it reaches."""


@dataclass(frozen=True)
class Load:
    """A bulk run beside the questions, whose answers all have `new_tokens` tokens."""

    name: str
    num_beams: int
    slots: int
    new_tokens: int = NEW_TOKENS

    def command(self, url: str, table: Path) -> list[str]:
        return module(
            "captionmill",
            *("run", str(table), "--image-column", "image", "--question-column", "question"),
            *("--out", str(table.with_suffix("")), "--redis", url, "--json"),
            *("--num-beams", str(self.num_beams)),
            *("--min-new-tokens", str(self.new_tokens), "--max-new-tokens", str(self.new_tokens)),
        )


LOADS: Final = (
    Load("greedy, as many jobs as rows", num_beams=1, slots=16),
    Load("4 beams, twice as many rows as there are", num_beams=4, slots=8),
    Load("16 beams, each job all rows", num_beams=16, slots=2),
)


@dataclass(frozen=True)
class Pace:
    """Image size and pauses of the questions.

    Pauses are random, so that questions meet waves of bulk jobs at different places.
    """

    size_px: tuple[int, int]
    """(height, width) of every picture."""
    longest_pause_s: float


def first_token_s(url: str, image: Path) -> float:
    """Seconds from sending a question to the first text of its answer; reads the whole answer."""
    connection = connect(url)
    queue = Queue(url, connection)
    begun = time.monotonic()
    asked = InteractiveQuestion(image, QUESTION, GenerationParameters(max_new_tokens=8, min_new_tokens=8))
    pieces = Waiting(connection, queue, asked).pieces()
    next(pieces)
    seconds = time.monotonic() - begun
    for _ in pieces:
        pass
    queue.close()
    connection.close()
    return seconds


def answered(url: str) -> int:
    """Number of bulk jobs answered so far, in all runs."""
    connection = connect(url)
    keys: Any = connection.scan_iter(done_key("*"))
    # Interactive questions have runs of their own, named by producer.ask.
    found = sum(connection.bitcount(key) for key in keys if b"ask-" not in key)
    connection.close()
    return found


@contextmanager
def busy(url: str, folder: Path, load: Load | None) -> Iterator[None]:
    """Keep the worker busy with bulk jobs during the block; drops the queued ones at its end."""
    if load is None:
        yield
        return
    table = folder / f"bulk-{time.monotonic_ns()}.csv"
    with table.open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(("image", "question"))
        rows.writerows((f"bulk-{number % IMAGES}.png", f"{QUESTION} {number}") for number in range(ROWS))
    before = answered(url)
    log = table.with_suffix(".log")
    with process(load.command(url, table), log, {}) as run:
        deadline = time.monotonic() + READY_S
        while answered(url) == before:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        time.sleep(FILL_S)
        yield
        assert run.poll() is None, f"the run has ended: {log.read_text()[-2000:]}"
        run.kill()
    connection = connect(url)
    connection.delete(JOB_QUEUE)
    connection.close()


@contextmanager
def worker(
    url: str, model_folder: Path, folder: Path, slots: int, interactive_slots: int = 2
) -> Iterator[None]:
    """A ready worker process that caches no image features."""
    settings = {
        "CAPTIONMILL_REDIS_URL": url,
        "CAPTIONMILL_MODEL_FOLDER": str(model_folder),
        "CAPTIONMILL_IMAGE_ROOTS": str(folder),
        "CAPTIONMILL_IMAGE_CACHE_BYTES": "0",
        "CAPTIONMILL_INTERACTIVE_SLOTS": str(interactive_slots),
    }
    log = folder / f"worker-{time.monotonic_ns()}.log"
    with process(celery_worker("worker", slots, "-l", "INFO"), log, settings):
        wait_until_ready(log)
        yield


def measured(
    url: str, folder: Path, load: Load | None, label: str, repeats: int, asking: Pace
) -> list[float]:
    """Seconds to first token of `repeats` questions one after another, each about another image."""
    found = []
    pauses = random.Random(0)
    images = [folder / f"asked-{label}-{number}.png" for number in range(repeats)]
    for number, image in enumerate(images):
        draw(asking.size_px, 10_000 + number).save(image)
    with busy(url, folder, load):
        for image in images:
            found.append(first_token_s(url, image))
            time.sleep(pauses.uniform(SHORTEST_PAUSE_S, asking.longest_pause_s))
    return found


def bulk_per_s(url: str, folder: Path, load: Load) -> float:
    """Bulk jobs answered per second without questions."""
    with busy(url, folder, load):
        first, begun = answered(url), time.monotonic()
        time.sleep(BULK_S)
        return (answered(url) - first) / (time.monotonic() - begun)


def cost(url: str, model_folder: Path, folder: Path, load: Load, rounds: int) -> dict[str, list[float]]:
    """Bulk jobs per second of workers with and without rows kept free for questions, in turn."""
    found: dict[str, list[float]] = {"rows kept": [], "none kept": []}
    for _ in range(rounds):
        for name, interactive_slots in (("rows kept", 2), ("none kept", 0)):
            with worker(url, model_folder, folder, load.slots, interactive_slots):
                found[name].append(bulk_per_s(url, folder, load))
    return found


def main(
    model_folder: ModelFolder = DEMO_FOLDER,
    repeats: Annotated[int, typer.Option(min=2, help="Questions in each state.")] = 20,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of the comparison of bulk work alone.")] = 3,
    loads: Annotated[int, typer.Option(min=1, max=len(LOADS), help="Number of loads, from the first.")] = 3,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Bulk jobs at once; by default each load's own.")
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each bulk answer.")] = NEW_TOKENS,
    height_px: Annotated[int, typer.Option(min=16, help="Height of every picture.")] = 192,
    width_px: Annotated[int, typer.Option(min=16, help="Width of every picture.")] = 256,
    longest_pause_s: Annotated[
        float, typer.Option(min=SHORTEST_PAUSE_S, help="Longest pause between questions.")
    ] = 0.9,
    out: Out = OUT,
) -> None:
    """Time the first token of an interactive question, on an idle worker and beside a bulk run."""
    found: list[dict[str, Any]] = []
    asking = Pace((height_px, width_px), longest_pause_s)
    chosen = [
        replace(load, slots=load.slots if slots is None else slots, new_tokens=new_tokens)
        for load in LOADS[:loads]
    ]
    with tempfile.TemporaryDirectory(prefix="captionmill-") as name, server(Path(name)) as url:
        folder = Path(name)
        for number in range(IMAGES):
            draw(asking.size_px, number).save(folder / f"bulk-{number}.png")
        for load in chosen:
            with worker(url, model_folder, folder, load.slots):
                measured(url, folder, None, "warm", 2, asking)
                alone = measured(url, folder, None, "alone", repeats, asking)
                beside = measured(url, folder, load, "beside", repeats, asking)
            base = statistics.median(alone)
            within = sum(seconds <= 2 * base for seconds in beside) / repeats
            figures = {
                "load": load.name,
                "alone_s": alone,
                "beside_s": beside,
                "ratio": statistics.median(beside) / base,
                "ratio_9_of_10": statistics.quantiles(beside, n=10)[-1] / base,
                "ratio_worst": max(beside) / base,
                "within_twice": within,
            }
            found.append(figures)
            print(
                f"{load.name}: alone {1000 * base:.0f} ms, beside {1000 * statistics.median(beside):.0f} ms; "
                f"x {figures['ratio']:.2f} in the median, x {figures['ratio_9_of_10']:.2f} in 9 of 10, "
                f"x {figures['ratio_worst']:.2f} at worst, {100 * within:.0f} % within twice",
                flush=True,
            )
        bulk = cost(url, model_folder, folder, chosen[0], rounds)
    if rounds:
        kept, none = (statistics.median(bulk[name]) for name in ("rows kept", "none kept"))
        print(f"bulk jobs alone: {kept:.2f} a second with rows kept for questions, {none:.2f} without")
    write_figures(out, "interactive", {"loads": found, "bulk_per_s": bulk})
