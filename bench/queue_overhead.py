"""The measurement `queue-overhead`: the engine's throughput with and without the queue; knows no peer."""

import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bench.engine_alone import ASKED_KEY, TOLD_KEY, Order, Run, Slice
from bench.machine import write_figures
from bench.options import DEMO_FOLDER, OUT, ModelFolder, Out
from bench.server import celery_worker, process, server, wait_until_ready
from bench.workloads import draw_many
from contract.job import GenerationParameters, ImagePath, Job
from producer.connection import connect
from producer.planner import Planner
from producer.question_planner import QuestionPlanner
from producer.questions import read_prompts
from producer.queue import Queue
from producer.run_folder import RunFolder
from producer.submission import Submission
from producer.work import work_on

SIZE_PX: Final = (192, 256)
QUESTIONS: Final = ("Describe the image.", "How many shapes are there?")
DIRECT: Final = 500
"""Pictures of the run that are also answered without the queue, repeatedly."""
WAYS: Final = ("direct", "queued")
LENGTHS: Final = (1000, 10_000)
"""Numbers of images for which the summary gives the share of a run's beginning and end."""


@dataclass(frozen=True)
class Ends:
    """Seconds of a run before its first job begins, and after its last one has ended."""

    begin_s: float
    end_s: float


def jobs_of(asked: Submission) -> list[str]:
    """The jobs of the first DIRECT rows as JSON, as a producer sends them."""
    question_planner = QuestionPlanner(asked.prompts, asked.parameters, "high")
    jobs = []
    for index, row in zip(range(DIRECT), asked.open().rows(), strict=False):
        questions: Any = tuple(one.asked for one in question_planner.ready(row, {}))
        assert isinstance(row.image, ImagePath)
        job = Job(
            run="direct", index=index, image=row.image, questions=questions, parameters=asked.parameters
        )
        jobs.append(job.model_dump_json())
    return jobs


def queued(url: str, asked: Submission, folder: Path) -> float:
    """Images per second from the source to answers.jsonl, including planning and hashing."""
    connection = connect(url)
    queue = Queue(url, connection)
    begun = time.monotonic()
    made = RunFolder(folder, create=True)
    rows = Planner(made, asked, asked.open()).plan().rows
    with work_on(made, connection, queue, feed=True, collect=True) as work:
        for _ in work.run.rounds():
            pass
        work.finish(keep_done_s=60)
    seconds = time.monotonic() - begun
    assert made.ledger.answered_questions() == rows * len(asked.prompts), made.ledger.failures()
    made.close()
    queue.close()
    return rows / seconds


def turns(url: str, asked: Submission, folder: Path, order: Order) -> tuple[list[Slice], Ends]:
    """The slices of a run through the queue and of the same worker without it, and the run's ends."""
    connection = connect(url)

    def told() -> Any:
        reply: Any = connection.blpop([TOLD_KEY])
        return json.loads(reply[1])

    connection.rpush(ASKED_KEY, json.dumps(asdict(order)))
    assert told() is None, "first it allows jobs"
    begun = time.time()
    queued(url, asked, folder)
    ended = time.time()
    found = [Slice(**one) for one in told()]
    run = Run(**told())
    return found, Ends(run.begun - begun, ended - run.ended)


def main(
    model_folder: ModelFolder = DEMO_FOLDER,
    images: Annotated[int, typer.Option(min=1000, help="Different pictures of the run.")] = 8000,
    questions: Annotated[
        int, typer.Option(min=1, max=len(QUESTIONS), help="Questions about each picture.")
    ] = 2,
    num_beams: Annotated[int, typer.Option(min=1)] = 4,
    new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 32,
    slots: Annotated[int, typer.Option(min=1, help="Jobs at once, in both ways.")] = 16,
    out: Out = OUT,
) -> None:
    """Compare the throughput through queue, store and disk with the engine alone, in turns of seconds."""
    with tempfile.TemporaryDirectory(prefix="captionmill-") as name, server(Path(name)) as url:
        folder = Path(name)
        pictures = folder / "pictures"
        draw_many(pictures, SIZE_PX, range(images))
        environment = {
            "CAPTIONMILL_REDIS_URL": url,
            "CAPTIONMILL_MODEL_FOLDER": str(model_folder),
            "CAPTIONMILL_IMAGE_ROOTS": str(folder),
            # Otherwise repeated pictures would be found in the cache.
            "CAPTIONMILL_IMAGE_CACHE_BYTES": "0",
        }
        command = celery_worker("bench.engine_alone", slots, "-l", "INFO")
        log = folder / "worker.log"
        with process(command, log, environment) as worker:
            wait_until_ready(log)
            asked = Submission(
                sources=(str(pictures),),
                prompts=read_prompts(QUESTIONS[:questions], None, None),
                parameters=GenerationParameters(max_new_tokens=new_tokens, num_beams=num_beams),
            )
            info: Any = connect(url).info("server")
            pids = {"worker": worker.pid, "server": info["process_id"], "producer": os.getpid()}
            found, ends = turns(url, asked, folder / "run", Order(slots, images, jobs_of(asked), pids))
    print(_summary(found, ends))
    figures = {"slices": [asdict(one) for one in found], "ends": asdict(ends)}
    write_figures(out, "queue-overhead", figures)


def _summary(found: Sequence[Slice], ends: Ends) -> str:
    """Compares slices that follow each other, as the machine's speed changes from minute to minute."""
    pairs = [sorted(found[i : i + 2], key=lambda one: one.way) for i in range(0, len(found) - 1, 2)]
    kept = [math.log(queued.images_per_s / direct.images_per_s) for direct, queued in pairs]
    mean, error = statistics.mean(kept), statistics.stdev(kept) / math.sqrt(len(kept))
    low, middle, high = statistics.quantiles(kept, n=4)
    cores = [math.log(_service_cores(queued) / _service_cores(direct)) for direct, queued in pairs]
    cores_error = statistics.stdev(cores) / math.sqrt(len(cores))
    both_s = ends.begin_s + ends.end_s
    whole_s = {length: length / _mean(found, "queued", _rate) for length in LENGTHS}
    lengths = ", ".join(f"{100 * both_s / (both_s + s):.1f} % of {n} images" for n, s in whole_s.items())
    return "\n".join(
        (
            f"Engine alone {_mean(found, 'direct', _rate):.2f}, to disk {_mean(found, 'queued', _rate):.2f} "
            f"images/s; steps an image {_mean(found, 'direct', _steps):.1f} and "
            f"{_mean(found, 'queued', _steps):.1f}.",
            f"Kept of the engine's throughput: {_percent(mean)} ± {100 * error:.1f} (standard error) in the "
            f"mean of {len(kept)} pairs; median {_percent(middle)}, quartiles {_percent(low)} and "
            f"{_percent(high)}.",
            f"Kept of the processor time that the service gets: {_percent(statistics.mean(cores))} "
            f"± {100 * cores_error:.1f}.",
            f"A run begins in {ends.begin_s:.2f} s and ends in {ends.end_s:.2f} s: {lengths}.",
            *(f"Processor time, ms an image, {way}: {_spent(found, way)}." for way in WAYS),
        )
    )


def _spent(found: Sequence[Slice], way: str) -> str:
    means = {
        name: statistics.mean(one.cpu_ms_per_image[name] for one in found if one.way == way)
        for name in found[0].cpu_ms_per_image
    } | {"of the worker outside its service": _mean(found, way, _outside)}
    return ", ".join(f"{name} {ms:.2f}" for name, ms in means.items())


def _service_cores(one: Slice) -> float:
    """Number of cores that the service uses, which does not depend on the machine's speed."""
    return one.images_per_s * (one.cpu_ms_per_image["worker"] - one.outside_ms_per_image) / 1000


def _rate(one: Slice) -> float:
    return one.images_per_s


def _steps(one: Slice) -> float:
    return one.steps_per_image


def _outside(one: Slice) -> float:
    return one.outside_ms_per_image


def _mean(found: Sequence[Slice], way: str, of: Callable[[Slice], float]) -> float:
    return statistics.mean(of(one) for one in found if one.way == way)


def _percent(log_ratio: float) -> str:
    return f"{100 * math.exp(log_ratio):.1f} %"
