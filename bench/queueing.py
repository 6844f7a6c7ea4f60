"""The measurement `queueing`: from a source to the disk without a model; knows no engine."""

import json
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import redis
import typer

from bench.machine import write_figures
from bench.options import OUT, Out
from bench.server import module, process, server
from contract.job import ImageUrl
from contract.store import results_key
from producer.connection import connect
from producer.planner import Planner
from producer.questions import read_prompts
from producer.queue import Queue
from producer.rows import Row
from producer.run_folder import RunFolder
from producer.sources import BadRows, Skipped
from producer.submission import Submission
from producer.work import work_on

QUESTION: Final = "Describe the image in one sentence."
SAMPLE_S: Final = 1.0
"""Seconds between two samples of memory."""
PART_ROWS: Final = 40_000
"""Rows of a separate measurement: fewer than a store may hold before the feeder waits."""
PART_ROUNDS: Final = 5
MIB: Final = 2**20


class Rows:
    """A source of rows with URLs that are not fetched. Obeys producer.sources.Source."""

    columns: tuple[str, ...] | None = None
    skipped = Skipped()
    images_folder: Path | None = None
    notes: tuple[str, ...] = ()

    def __init__(self, count: int) -> None:
        self._count = count

    def rows(self, _: BadRows | None = None, /) -> Iterator[Row]:
        for number in range(self._count):
            image = ImageUrl(url=f"https://example.org/photos/{number:09d}.jpg")
            yield Row(id=f"photos/{number:09d}.jpg", name=f"{number:09d}.jpg", image=image)

    def read(self, place: int) -> bytes:
        raise NotImplementedError


@dataclass
class Watched:
    """Samples of the memory of store and producer during a run."""

    connection: redis.Redis
    rows: list[int] = field(default_factory=list)
    store_bytes: list[int] = field(default_factory=list)
    producer_bytes: list[int] = field(default_factory=list)
    _looked_at: float = 0.0

    def look(self, rows: int) -> None:
        if time.monotonic() - self._looked_at < SAMPLE_S:
            return
        self._looked_at = time.monotonic()
        memory: Any = self.connection.info("memory")
        self.rows.append(rows)
        self.store_bytes.append(memory["used_memory"])
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.producer_bytes.append(resident_pages * resource.getpagesize())

    def tenths(self, values: list[int]) -> list[float]:
        """The median of each tenth of the samples in MiB."""
        step = max(1, len(values) // 10)
        parts = [values[begin : begin + step] for begin in range(0, len(values), step)][:10]
        return [round(statistics.median(part) / MIB, 1) for part in parts]


def planned(folder: Path, rows: int) -> tuple[RunFolder, float]:
    """A planned run of `rows` rows, and the rate of planning in rows per second."""
    made = RunFolder(folder, create=True)
    submission = Submission(sources=("rows",), prompts=read_prompts([QUESTION], None, None))
    begun = time.monotonic()
    Planner(made, submission, Rows(rows)).plan()
    return made, rows / (time.monotonic() - begun)


def whole(url: str, folder: Path, rows: int) -> dict[str, Any]:
    """Figures of one process that sends, collects and writes, with a stub worker beside it."""
    made, plan_rate = planned(folder / "whole", rows)
    connection = connect(url)
    watched = Watched(connection)
    with process(module("bench.stub_worker", url), folder / "stub.log", {}):
        begun = time.monotonic()
        with work_on(made, connection, Queue(url, connection), feed=True, collect=True, window=2000) as work:
            for round_ in work.run.rounds():
                watched.look(round_.complete)
            work.finish(keep_done_s=1)
        seconds = time.monotonic() - begun
    with (made.path / "answers.jsonl").open("rb") as lines:
        indices = {json.loads(line)["index"] for line in lines}
    assert indices == set(range(rows)), "a row is missing"
    return {
        "rows": rows,
        "planned_rows_per_s": plan_rate,
        "rows_per_s": rows / seconds,
        "store_mib_by_tenth": watched.tenths(watched.store_bytes),
        "producer_mib_by_tenth": watched.tenths(watched.producer_bytes),
        "ledger_bytes_per_row": (made.path / "ledger.sqlite").stat().st_size / rows,
    }


@dataclass(frozen=True)
class Part:
    """Figures of a process that only sends jobs, or only collects and writes answers."""

    per_s: float
    cpu_us: float
    """Processor time in microseconds per job or answer; it varies less than the rate."""


@contextmanager
def part(done: list[Part]) -> Iterator[None]:
    """Append to `done` the figures of a block that handles PART_ROWS jobs or answers."""
    begun, spent_s = time.monotonic(), -time.process_time()
    yield
    spent_s += time.process_time()
    done.append(Part(PART_ROWS / (time.monotonic() - begun), spent_s / PART_ROWS * 1e6))


def apart(url: str, folder: Path, number: int, sent: list[Part], collected: list[Part]) -> None:
    """Send PART_ROWS jobs and, when all are answered, collect the answers."""
    made, _ = planned(folder / f"part {number}", PART_ROWS)
    connection = connect(url)
    queue = Queue(url, connection)
    with part(sent), work_on(made, connection, queue, feed=True, collect=False, window=10**6) as work:
        for _ in work.run.rounds():
            pass
    with process(module("bench.stub_worker", url), folder / "stub.log", {}):
        # An empty queue is not enough: the stub's last jobs may not be written yet.
        while connection.xlen(results_key(made.run)) < PART_ROWS:
            time.sleep(0.1)
    with part(collected), work_on(made, connection, queue, feed=False, collect=True) as work:
        for _ in work.run.rounds():
            pass
        work.finish(keep_done_s=1)


def main(
    rows: Annotated[int, typer.Option(min=1000, help="Rows of the run.")] = 1_000_000,
    out: Out = OUT,
) -> None:
    """Measure sending, collecting and writing without a model: rates and memory."""
    with tempfile.TemporaryDirectory(prefix="captionmill-") as name, server(Path(name)) as url:
        folder = Path(name)
        sent: list[Part] = []
        collected: list[Part] = []
        for number in range(PART_ROUNDS):
            apart(url, folder, number, sent, collected)
        found = whole(url, folder, rows)
    found |= {
        "submitted_jobs_per_s": statistics.median(one.per_s for one in sent),
        "submitted_cpu_us_per_job": statistics.median(one.cpu_us for one in sent),
        "collected_answers_per_s": statistics.median(one.per_s for one in collected),
        "collected_cpu_us_per_answer": statistics.median(one.cpu_us for one in collected),
    }
    print(json.dumps(found, indent=1))
    write_figures(out, "queueing", found)
