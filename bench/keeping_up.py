"""Measures what queue, store and disk leave of the engine's own throughput, taking turns; knows no peer.

A command of its own: python -m bench.keeping_up
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bench.engine_alone import ASKED_KEY, TOLD_KEY
from bench.machine import describe
from bench.server import ROOT, cpu_s, process, server
from bench.works import draw
from contract.job import GenerationParameters, ImagePath, Job
from producer.asking import Asking
from producer.connection import connect
from producer.questions import read_prompts
from producer.queue import Queue
from producer.run_folder import RunFolder, Submission
from producer.sources import open_source

DEMO_FOLDER: Final = ROOT / "demo" / "model" / "openvino"
SIZE_PX: Final = (192, 256)
QUESTIONS: Final = ("Describe the image.", "How many shapes are there?")
START_S: Final = 300.0
DIRECT_S: Final = 1800.0
"""Longest of a round without a queue."""


@dataclass(frozen=True)
class Way:
    """One way of a round."""

    images_per_s: float
    cpu_ms_per_image: dict[str, float]
    """Of worker, server and producer."""


class Meter:
    """Processor time of the three processes that a round has."""

    def __init__(self, url: str, worker: int) -> None:
        info: Any = connect(url).info("server")
        self._pids = {"worker": worker, "server": info["process_id"], "producer": os.getpid()}
        self._begun = self._read()

    def _read(self) -> dict[str, float]:
        return {name: cpu_s(pid) for name, pid in self._pids.items()}

    def per_image(self, images: int) -> dict[str, float]:
        """Milliseconds since it was made."""
        return {
            name: 1000 * (now - begun) / images
            for (name, now), begun in zip(self._read().items(), self._begun.values(), strict=True)
        }


def direct(url: str, asked: Submission, slots: int) -> float:
    """Images a second when threads of the worker's process hand jobs straight to its service."""
    asking = Asking(asked.prompts, asked.parameters, "high")
    jobs = []
    for index, row in enumerate(open_source(asked.source, asked.options).rows()):
        questions: Any = tuple(wish.asked for wish in asking.ready(row, {}))
        assert isinstance(row.image, ImagePath)
        job = Job(
            run="direct", index=index, image=row.image, questions=questions, parameters=asked.parameters
        )
        jobs.append(job.model_dump_json())
    connection = connect(url)
    connection.rpush(ASKED_KEY, json.dumps({"slots": slots, "jobs": jobs}))
    deadline = time.monotonic() + DIRECT_S
    while (told := connection.lpop(TOLD_KEY)) is None:
        assert time.monotonic() < deadline, "the worker's log says why it does not answer"
        time.sleep(0.1)
    assert isinstance(told, bytes)
    return len(jobs) / float(told)


def queued(url: str, asked: Submission, folder: Path) -> float:
    """Images a second from the source to answers.jsonl, planning and hashing included."""
    connection = connect(url)
    queue = Queue(url, connection)
    begun = time.monotonic()
    made = RunFolder(folder, create=True)
    rows = made.plan(asked, open_source(asked.source, asked.options))
    with made.work(connection, queue, feed=True, collect=True) as work:
        for _ in work.run.rounds():
            pass
        work.finish(keep_done_s=60)
    seconds = time.monotonic() - begun
    assert made.ledger.answered_questions() == rows * len(asked.prompts), made.ledger.failures()
    made.close()
    queue.close()
    return rows / seconds


def main(
    model_folder: Annotated[Path, typer.Option(help="What the worker loads.")] = DEMO_FOLDER,
    images: Annotated[int, typer.Option(min=10, help="Distinct pictures of a round.")] = 500,
    questions: Annotated[int, typer.Option(min=1, max=len(QUESTIONS), help="About each picture.")] = 2,
    num_beams: Annotated[int, typer.Option(min=1)] = 4,
    new_tokens: Annotated[int, typer.Option(min=1, help="Most of an answer.")] = 32,
    rounds: Annotated[int, typer.Option(min=2)] = 10,
    slots: Annotated[int, typer.Option(min=1, help="Jobs at once, in both ways.")] = 16,
    out: Annotated[Path, typer.Option(help="Keeps the figures.")] = Path("bench-out"),
) -> None:
    """Answer the same pictures with the engine alone and by way of queue, store and disk."""
    with tempfile.TemporaryDirectory(prefix="captionmill-") as name, server(Path(name)) as url:
        folder = Path(name)
        pictures = folder / "pictures"
        pictures.mkdir()
        for number in range(images):
            draw(SIZE_PX, number).save(pictures / f"{number:06d}.png")
        settings = {
            "redis_url": url,
            "model_folder": str(model_folder),
            "image_roots": str(folder),
            # Else the second round finds the features of the first.
            "image_cache_bytes": "0",
        }
        environment = {f"CAPTIONMILL_{name.upper()}": value for name, value in settings.items()}
        command = [
            *(sys.executable, "-m", "celery", "-A", "bench.engine_alone", "worker", "-P", "threads"),
            *("-c", str(slots), "-Q", "captionmill.jobs", "-l", "INFO", "--without-mingle"),
            *("--without-gossip", "--without-heartbeat"),
        ]
        log = folder / "worker.log"
        with process(command, log, environment) as worker:
            deadline = time.monotonic() + START_S
            while " ready." not in log.read_text():
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            asked = Submission(
                source=str(pictures),
                prompts=read_prompts(QUESTIONS[:questions], None, None),
                parameters=GenerationParameters(max_new_tokens=new_tokens, num_beams=num_beams),
            )
            found: list[dict[str, Way]] = []
            for number in range(-1, rounds):
                ways: dict[str, Way] = {}
                for way in ("direct", "queued") if number % 2 else ("queued", "direct"):
                    meter = Meter(url, worker.pid)
                    rate = (
                        direct(url, asked, slots)
                        if way == "direct"
                        else queued(url, asked, folder / f"run {number}")
                    )
                    ways[way] = Way(rate, meter.per_image(images))
                print(_line(ways), flush=True)
                if number >= 0:  # the round before is to get warm
                    found.append(ways)
    kept = [ways["queued"].images_per_s / ways["direct"].images_per_s for ways in found]
    figures = {
        "rounds": [{way: vars(one) for way, one in ways.items()} for ways in found],
        "kept": statistics.median(kept),
        "machine": describe(None),
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"keeping-up-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps(figures, indent=1))
    print(_summary(kept, found))
    print(f"Figures: {path}")


def _line(ways: dict[str, Way]) -> str:
    alone, disk = ways["direct"], ways["queued"]
    return (
        f"engine {alone.images_per_s:.2f}, to disk {disk.images_per_s:.2f} images/s; worker "
        f"{alone.cpu_ms_per_image['worker']:.1f} and {disk.cpu_ms_per_image['worker']:.1f} ms an image, "
        f"producer {disk.cpu_ms_per_image['producer']:.2f}, server {disk.cpu_ms_per_image['server']:.2f}"
    )


def _summary(kept: Sequence[float], found: Sequence[dict[str, Way]]) -> str:
    low, middle, high = statistics.quantiles(kept, n=4)
    rates = {way: statistics.median(ways[way].images_per_s for ways in found) for way in ("direct", "queued")}
    spent = {
        f"{name}{' alone' if way == 'direct' else ''}": statistics.median(
            ways[way].cpu_ms_per_image[name] for ways in found
        )
        for way, name in (
            ("direct", "worker"),
            ("queued", "worker"),
            ("queued", "producer"),
            ("queued", "server"),
        )
    }
    times = ", ".join(f"{name} {ms:.2f}" for name, ms in spent.items())
    return (
        f"Engine {rates['direct']:.2f}, to disk {rates['queued']:.2f} images/s.\n"
        f"Kept of the engine's throughput: {100 * middle:.1f} % in the median of {len(kept)} rounds, "
        f"quartiles {100 * low:.1f} and {100 * high:.1f}.\n"
        f"Processor time, ms an image: {times}."
    )


if __name__ == "__main__":
    typer.run(main)
