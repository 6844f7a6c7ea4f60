"""Measures what queue, store and disk leave of the engine's own throughput, taking turns; knows no peer.

A command of its own: python -m bench.keeping_up
"""

import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bench.machine import describe
from bench.server import ROOT, process, server
from bench.works import draw
from contract.job import GenerationParameters, ImagePath, Job
from producer.asking import Asking
from producer.connection import connect
from producer.questions import read_prompts
from producer.queue import Queue
from producer.run_folder import RunFolder, Submission
from producer.sources import open_source
from worker.settings import Settings
from worker.startup import Worker

DEMO_FOLDER: Final = ROOT / "demo" / "model" / "openvino"
SIZE_PX: Final = (192, 256)
QUESTIONS: Final = ("Describe the image.", "How many shapes are there?")
START_S: Final = 300.0


def direct(worker: Worker, asked: Submission, slots: int) -> float:
    """Images a second when threads hand jobs straight to the service."""
    asking = Asking(asked.prompts, asked.parameters, "high")
    jobs = []
    for index, row in enumerate(open_source(asked.source, asked.options).rows()):
        questions: Any = tuple(wish.asked for wish in asking.ready(row, {}))
        assert isinstance(row.image, ImagePath)
        jobs.append(
            Job(run="direct", index=index, image=row.image, questions=questions, parameters=asked.parameters)
        )
    begun = time.monotonic()
    with ThreadPoolExecutor(slots) as threads:
        for result in threads.map(worker.service.answer, jobs):
            assert all(one.outcome.kind == "answer" for one in result.results), result
    return len(jobs) / (time.monotonic() - begun)


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
    images: Annotated[int, typer.Option(min=10, help="Distinct pictures of a round.")] = 1000,
    questions: Annotated[int, typer.Option(min=1, max=len(QUESTIONS), help="About each picture.")] = 2,
    num_beams: Annotated[int, typer.Option(min=1)] = 1,
    new_tokens: Annotated[int, typer.Option(min=1, help="Most of an answer.")] = 32,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
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
            *(sys.executable, "-m", "celery", "-A", "worker", "worker", "-P", "threads", "-c", str(slots)),
            *("-Q", "captionmill.jobs", "-l", "INFO", "--without-mingle", "--without-gossip"),
            "--without-heartbeat",
        ]
        log = folder / "worker.log"
        with process(command, log, environment):
            deadline = time.monotonic() + START_S
            while " ready." not in log.read_text():
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            worker = Worker(Settings.model_validate(settings))
            asked = Submission(
                source=str(pictures),
                prompts=read_prompts(QUESTIONS[:questions], None, None),
                parameters=GenerationParameters(max_new_tokens=new_tokens, num_beams=num_beams),
            )
            ratios, figures = [], []
            for number in range(-1, rounds):
                ways: dict[str, float] = {}
                for way in ("direct", "queued") if number % 2 else ("queued", "direct"):
                    ways[way] = (
                        direct(worker, asked, slots)
                        if way == "direct"
                        else queued(url, asked, folder / f"run {number}")
                    )
                if number >= 0:  # the round before is to get warm
                    ratios.append(ways["queued"] / ways["direct"])
                    figures.append(ways)
                print(f"engine {ways['direct']:.2f}, to disk {ways['queued']:.2f} images/s", flush=True)
            worker.close()
    found = {"rounds": figures, "kept": statistics.median(ratios), "machine": describe(None)}
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"keeping-up-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps(found, indent=1))
    print(f"Kept of the engine's throughput: {100 * statistics.median(ratios):.1f} %. Figures: {path}")


if __name__ == "__main__":
    typer.run(main)
