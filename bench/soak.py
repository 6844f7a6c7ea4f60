"""The measurement `soak`: a worker's memory over thousands of mixed jobs; knows neither broker nor store."""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import typer

from bench.options import DEMO_FOLDER, ModelFolder
from bench.workloads import QUESTIONS, draw
from contract.answer import Answer
from contract.job import ImagePath, Job
from worker.errors import StartupError
from worker.settings import Settings
from worker.startup import load_worker

BATCH_JOBS: Final = 200
"""Jobs between two readings, which are taken when no job is in the worker."""
ALLOWED_GROWTH: Final = 0.05
"""Allowed growth of the resident set from the first to the last reading, as a share."""
DEADLINE_S: Final = 0.03
"""Seconds to a deadline, few enough to end some jobs early."""
SIDES_PX: Final = (20, 500)
"""Range of a picture's height and width."""
KV_CACHE_BYTES: Final = 32 * 2**20
IMAGE_CACHE_BYTES: Final = 4 * 2**20
"""Sizes small enough for both caches to be full before the first reading, so that a leak shows."""
KINDS: Final[tuple[dict[str, Any], ...]] = (
    {"parameters": {"max_new_tokens": 40}},
    {"questions": 6, "parameters": {"max_new_tokens": 24}},
    {"parameters": {"max_new_tokens": 40, "num_beams": 4, "num_return_sequences": 2}},
    {"questions": 2, "parameters": {"max_new_tokens": 12, "num_beams": 8, "early_stopping": True}},
    {"parameters": {"max_new_tokens": 30, "do_sample": True, "num_return_sequences": 5}},
    {"parameters": {"max_new_tokens": 200, "min_new_tokens": 150}},
    {"questions": 3, "parameters": {"max_new_tokens": 1}},
    {"questions": 8, "detail": "low", "parameters": {"max_new_tokens": 16}},
    {"detail": 2, "parameters": {"max_new_tokens": 60, "min_new_tokens": 30, "stop": ["the", "."]}},
    {"choices": ["yes", "no", "a red circle", "a green square"]},
    {"questions": 4, "deadline": DEADLINE_S, "parameters": {"max_new_tokens": 100, "min_new_tokens": 80}},
    {"image": "text alone", "parameters": {"max_new_tokens": 20}},
    {"image": "missing"},
    {"text": "What is <image>?"},
    {"parameters": {"max_new_tokens": 100_000}},
    {"parameters": {"num_beams": 64, "max_new_tokens": 10}},
)
"""Kinds of job, in turn; the last four are refused."""


@dataclass(frozen=True)
class Reading:
    """Outcomes and memory of a worker so far."""

    jobs: int
    seconds: float
    resident_bytes: int
    outcomes: Counter[str]

    def __str__(self) -> str:
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        return f"{self.jobs} jobs, {self.seconds:.0f} s: {self.resident_bytes / 2**20:.1f} MiB; {outcomes}"


class Soak:
    """A worker, and a folder for pictures."""

    def __init__(
        self, model_folder: Path, attention: Literal["stateful", "paged"], threads: int, pictures: Path
    ) -> None:
        """Raises worker.errors.StartupError."""
        self._pictures = pictures
        self._threads = threads
        self._worker = load_worker(
            Settings(
                model_folder=model_folder,
                attention=attention,
                image_roots=(pictures,),
                kv_cache_bytes=KV_CACHE_BYTES,
                image_cache_bytes=IMAGE_CACHE_BYTES,
            )
        )

    def readings(self, jobs: int) -> Iterator[Reading]:
        """Answer `jobs` jobs in `threads` threads; a reading after every BATCH_JOBS."""
        outcomes: Counter[str] = Counter()
        begun = time.monotonic()
        with ThreadPoolExecutor(self._threads) as pool:
            for done in range(0, jobs, BATCH_JOBS):
                for counted in pool.map(self._answer, range(done, min(done + BATCH_JOBS, jobs))):
                    outcomes += counted
                yield Reading(
                    min(done + BATCH_JOBS, jobs), time.monotonic() - begun, resident_bytes(), outcomes.copy()
                )
        self._worker.close()

    def _answer(self, index: int) -> Counter[str]:
        """Answer one job about a new picture; returns its outcomes by kind."""
        path = self._pictures / f"{index}.png"
        size_px = np.random.default_rng(index).integers(*SIDES_PX, size=2).tolist()
        draw((size_px[0], size_px[1]), seed=index).save(path)
        result = self._worker.parts.service.answer(make_job(index, path))
        path.unlink()
        kinds = ["answer" if isinstance(r.outcome, Answer) else r.outcome.code for r in result.results]
        return Counter(kinds)


def make_job(index: int, picture: Path) -> Job:
    """The job with this index: one of KINDS, about its own picture."""
    kind = KINDS[index % len(KINDS)]
    images = {"missing": picture.with_suffix(".missing"), "text alone": None}
    image = images.get(kind.get("image", ""), picture)
    parameters = kind.get("parameters", {})
    questions = [
        {
            "id": str(number),
            "messages": kind.get("text", QUESTIONS[(index + number) % len(QUESTIONS)]),
            "choices": kind.get("choices"),
        }
        for number in range(kind.get("questions", 1))
    ]
    return Job.model_validate(
        {
            "run": "soak",
            "index": index,
            "image": None if image is None else ImagePath.of(image),
            "questions": questions,
            "parameters": parameters | ({"seed": index} if "do_sample" in parameters else {}),
            "detail": kind.get("detail", "high"),
            "deadline": time.time() + kind["deadline"] if "deadline" in kind else None,
        }
    )


def resident_bytes() -> int:
    """Resident memory of this process in bytes."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


def main(
    model: ModelFolder = DEMO_FOLDER,
    attention: Annotated[Literal["stateful", "paged"], typer.Option()] = "stateful",
    jobs: Annotated[int, typer.Option(min=1)] = 2000,
    threads: Annotated[int, typer.Option(min=1)] = 8,
) -> None:
    """Answer thousands of mixed jobs and print the memory held; fail if it grew."""
    with tempfile.TemporaryDirectory(prefix="captionmill-soak-") as pictures:
        try:
            soaked = Soak(model, attention, threads, Path(pictures))
        except StartupError as error:
            sys.exit(str(error))
        readings: list[Reading] = []
        for reading in soaked.readings(jobs):
            readings.append(reading)
            print(reading, flush=True)
    growth = readings[-1].resident_bytes / readings[0].resident_bytes - 1
    print(f"{attention}: {growth:+.1%} from the first reading to the last")
    sys.exit(growth > ALLOWED_GROWTH)
