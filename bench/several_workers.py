"""The measurement `several-workers`: one worker on all cores, or several on a share each; knows no peer."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from bench.machine import write_figures
from bench.options import DEMO_FOLDER, OUT, ModelFolder, Out
from bench.queue_overhead import QUESTIONS, SIZE_PX, queued
from bench.server import celery_worker, process, server, wait_until_ready
from bench.workloads import draw_many
from contract.job import GenerationParameters
from producer.questions import read_prompts
from producer.submission import Submission

WARM_UP: Final = 32
"""Images that do not count, before each round."""


def shares(cores: list[int], workers: int) -> list[list[int]]:
    """The cores divided into `workers` ranges; the first ranges get the cores left over."""
    each, more = divmod(len(cores), workers)
    ends = [each * (number + 1) + min(more, number + 1) for number in range(workers)]
    return [cores[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


@contextmanager
def workers(folder: Path, settings: dict[str, str], count: int, slots: int) -> Iterator[None]:
    """`count` ready workers, each pinned to its share of this process's cores."""
    with ExitStack() as stack:
        logs = []
        for number, share in enumerate(shares(sorted(os.sched_getaffinity(0)), count)):
            log = folder / f"worker {count} {number} {time.monotonic()}.log"
            own_slots = max(1, slots // count)
            command = [
                *("taskset", "-c", ",".join(map(str, share))),
                *celery_worker("worker", own_slots, "-l", "INFO", "-n", f"worker{number}@%h"),
            ]
            environment = {f"CAPTIONMILL_{name.upper()}": value for name, value in settings.items()}
            environment["CAPTIONMILL_MAX_ROWS"] = str(own_slots)
            stack.enter_context(process(command, log, environment))
            logs.append(log)
        for log in logs:
            wait_until_ready(log)
        yield


def main(
    model_folder: ModelFolder = DEMO_FOLDER,
    images: Annotated[int, typer.Option(min=10, help="Different pictures of a round.")] = 400,
    counts: Annotated[str, typer.Option(help="Numbers of workers, separated by commas.")] = "1,2",
    num_beams: Annotated[int, typer.Option(min=1)] = 1,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    slots: Annotated[int, typer.Option(min=1, help="Jobs at once, of all workers together.")] = 16,
    precision: Annotated[
        str, typer.Option(help="Precision of the workers; a single core needs exact.")
    ] = "exact",
    out: Out = OUT,
) -> None:
    """Compare one worker on all cores with several on a share each, in turns."""
    with tempfile.TemporaryDirectory(prefix="captionmill-") as name, server(Path(name)) as url:
        folder = Path(name)
        pictures = folder / "pictures"
        draw_many(pictures, SIZE_PX, range(images))
        first = folder / "first"
        draw_many(first, SIZE_PX, range(images, images + WARM_UP))
        settings = {
            "redis_url": url,
            "model_folder": str(model_folder),
            "image_roots": str(folder),
            "image_cache_bytes": "0",
            "precision": precision,
        }
        wished = [int(part) for part in counts.split(",")]
        rates: dict[int, list[float]] = {count: [] for count in wished}
        for number in range(rounds):
            for count in wished if number % 2 else reversed(wished):
                with workers(folder, settings, count, slots):
                    queued(url, _asked(first, num_beams), folder / f"warm {number} {count}")
                    rate = queued(url, _asked(pictures, num_beams), folder / f"run {number} {count}")
                rates[count].append(rate)
                print(f"{count} workers: {rate:.2f} images/s", flush=True)
    write_figures(out, "several-workers", {"images_per_s": rates})
    base = rates[wished[0]]
    for count in wished[1:]:
        ratio = statistics.median(one / of for one, of in zip(rates[count], base, strict=True))
        print(f"{count} workers do {ratio:.2f} times what {wished[0]} does.")


def _asked(source: Path, num_beams: int) -> Submission:
    return Submission(
        sources=(str(source),),
        prompts=read_prompts(QUESTIONS, None, None),
        parameters=GenerationParameters(max_new_tokens=32, num_beams=num_beams),
    )
