"""Measures how long an interactive question waits for its first token, alone and beside bulk work.

Knows no engine: both go through queue and store. A command of its own: python -m bench.interactive
"""

import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bench.machine import describe
from bench.server import ROOT, process, server
from bench.works import draw
from contract.broker import JOB_QUEUE
from contract.job import GenerationParameters, ImagePath, Job, Question
from contract.store import done_key, results_key
from producer.ask import Asked, Waiting
from producer.connection import connect
from producer.queue import Queue

MODEL: Final = ROOT / "demo" / "model" / "openvino"
SIZE_PX: Final = (192, 256)
QUESTION: Final = "Describe the image."
START_S: Final = 300.0
FILL_S: Final = 4.0
"""From the first bulk job until every row is taken."""
BULK_S: Final = 10.0
PAUSES_S: Final = (0.1, 0.9)
"""Between questions, drawn at random: bulk jobs come in waves, which must not be met at one place always."""
IMAGES: Final = 32
"""Of the bulk work, over and over; the questions have images of their own."""


@dataclass(frozen=True)
class Load:
    """The bulk work beside which questions are asked: jobs that generate all their tokens."""

    name: str
    num_beams: int
    slots: int
    max_new_tokens: int

    def job(self, folder: Path, index: int) -> Job:
        return Job(
            run="bulk",
            index=index,
            image=ImagePath.of(folder / f"bulk-{index % IMAGES}.png"),
            questions=(Question(id="q", messages=QUESTION),),
            parameters=GenerationParameters(
                num_beams=self.num_beams,
                max_new_tokens=self.max_new_tokens,
                min_new_tokens=self.max_new_tokens,
            ),
        )


LOADS: Final = (
    Load("greedy, as many jobs as rows", num_beams=1, slots=16, max_new_tokens=128),
    Load("4 beams, twice as many rows as there are", num_beams=4, slots=8, max_new_tokens=128),
    Load("16 beams, each job all rows", num_beams=16, slots=2, max_new_tokens=128),
)


def first_token_s(url: str, image: Path) -> float:
    """Seconds from sending the question to the first of its answer's text; the rest is read too."""
    connection = connect(url)
    queue = Queue(url, connection)
    begun = time.monotonic()
    asked = Asked(image, QUESTION, GenerationParameters(max_new_tokens=8, min_new_tokens=8))
    pieces = Waiting(connection, queue, asked).pieces()
    next(pieces)
    seconds = time.monotonic() - begun
    for _ in pieces:
        pass
    queue.close()
    connection.close()
    return seconds


@contextmanager
def busy(url: str, folder: Path, load: Load | None) -> Iterator[None]:
    """The worker has bulk jobs enough while the block runs; at its end what is queued is dropped."""
    if load is None:
        yield
        return
    ended = threading.Event()
    wanted: Load = load

    def feed() -> None:
        connection = connect(url)
        queue = Queue(url, connection)
        index = 0
        while not ended.is_set():
            while queue.queued() < 2 * wanted.slots:
                job = wanted.job(folder, index)
                queue.submit([(f"bulk-{index}", job.model_dump_json())])
                index += 1
            time.sleep(0.05)
        connection.delete(JOB_QUEUE)
        queue.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    time.sleep(FILL_S)
    yield
    ended.set()
    feeder.join()


@contextmanager
def worker(
    url: str, model_folder: Path, folder: Path, slots: int, interactive_slots: int = 2
) -> Iterator[None]:
    """A worker process that is ready, and keeps no image's features."""
    command = [
        *(sys.executable, "-m", "celery", "-A", "worker", "worker", "-P", "threads", "-c", str(slots)),
        *("-Q", JOB_QUEUE, "-l", "INFO", "--without-mingle", "--without-gossip", "--without-heartbeat"),
    ]
    settings = {
        "CAPTIONMILL_REDIS_URL": url,
        "CAPTIONMILL_MODEL_FOLDER": str(model_folder),
        "CAPTIONMILL_IMAGE_ROOTS": str(folder),
        "CAPTIONMILL_IMAGE_CACHE_BYTES": "0",
        "CAPTIONMILL_INTERACTIVE_SLOTS": str(interactive_slots),
    }
    log = folder / f"worker-{time.monotonic_ns()}.log"
    with process(command, log, settings):
        deadline = time.monotonic() + START_S
        while " ready." not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield


def measured(url: str, folder: Path, load: Load | None, label: str, repeats: int) -> list[float]:
    """First-token times of so many questions, each about an image of its own, one after the other."""
    found = []
    pauses = random.Random(0)
    with busy(url, folder, load):
        for number in range(repeats):
            image = folder / f"asked-{label}-{number}.png"
            draw(SIZE_PX, 10_000 + number).save(image)
            found.append(first_token_s(url, image))
            time.sleep(pauses.uniform(*PAUSES_S))
    return found


def bulk_per_s(url: str, folder: Path, load: Load) -> float:
    """Bulk jobs that are answered a second while nobody asks anything."""
    connection = connect(url)
    with busy(url, folder, load):
        first, begun = connection.xlen(results_key("bulk")), time.monotonic()
        time.sleep(BULK_S)
        done = connection.xlen(results_key("bulk")) - first
        seconds = time.monotonic() - begun
    connection.delete(results_key("bulk"), done_key("bulk"))
    return float(done / seconds)


def cost(url: str, model_folder: Path, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Bulk jobs a second of workers that keep rows for questions, and of those that take none, in turn."""
    found: dict[str, list[float]] = {"rows kept": [], "none kept": []}
    load = LOADS[0]
    for _ in range(rounds):
        for name, interactive_slots in (("rows kept", 2), ("none kept", 0)):
            with worker(url, model_folder, folder, load.slots, interactive_slots):
                found[name].append(bulk_per_s(url, folder, load))
    return found


def main(
    model_folder: Annotated[Path, typer.Option(help="What the worker loads.")] = MODEL,
    repeats: Annotated[int, typer.Option(min=2, help="Questions in each state.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Of the comparison of bulk work alone.")] = 3,
    out: Annotated[Path, typer.Option(help="Keeps the figures.")] = Path("bench-out"),
) -> None:
    """Ask questions of a worker that is idle, and of one that bulk jobs fill."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="captionmill-") as name, server(Path(name)) as url:
        folder = Path(name)
        for number in range(IMAGES):
            draw(SIZE_PX, number).save(folder / f"bulk-{number}.png")
        for load in LOADS:
            with worker(url, model_folder, folder, load.slots):
                measured(url, folder, None, "warm", 2)
                alone = measured(url, folder, None, "alone", repeats)
                beside = measured(url, folder, load, "beside", repeats)
            base = statistics.median(alone)
            figures = {
                "load": load.name,
                "alone_s": alone,
                "beside_s": beside,
                "ratio": statistics.median(beside) / base,
                "ratio_9_of_10": statistics.quantiles(beside, n=10)[-1] / base,
                "ratio_worst": max(beside) / base,
            }
            found.append(figures)
            print(
                f"{load.name}: alone {1000 * base:.0f} ms, beside {1000 * statistics.median(beside):.0f} ms; "
                f"x {figures['ratio']:.2f} in the median, x {figures['ratio_9_of_10']:.2f} in 9 of 10, "
                f"x {figures['ratio_worst']:.2f} at worst",
                flush=True,
            )
        bulk = cost(url, model_folder, folder, rounds)
    kept, none = (statistics.median(bulk[name]) for name in ("rows kept", "none kept"))
    print(f"bulk jobs alone: {kept:.2f} a second with rows kept for questions, {none:.2f} without")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"interactive-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps({"loads": found, "bulk_per_s": bulk, "machine": describe(None)}, indent=1))
    print(f"Figures: {path}")


if __name__ == "__main__":
    typer.run(main)
