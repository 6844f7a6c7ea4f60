"""The measurement `local-mode`: local mode beside a server and worker started by hand; knows no engine."""

import json
import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from bench.machine import write_figures
from bench.options import DEMO_FOLDER, OUT, ModelFolder, Out
from bench.server import module, process, server, wait_until_ready
from bench.workloads import draw_many

SIZE_PX: Final = (192, 256)
QUESTION: Final = "Describe the image."
BEGIN: Final = 0.1
END: Final = 0.9
"""Shares of the rows between which the rate is measured, without start and end of a run."""
Way = Literal["by hand", "local"]
WAYS: Final[tuple[Way, Way]] = ("by hand", "local")


@dataclass(frozen=True)
class Round:
    """Figures of one run of all pictures."""

    way: Way
    images_per_s: float
    """Rate between BEGIN and END."""
    whole_s: float
    """Seconds of the whole command; by hand, without the start of server and worker."""


def main(
    model_folder: ModelFolder = DEMO_FOLDER,
    images: Annotated[int, typer.Option(min=100, help="Different pictures of a round.")] = 600,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of each way.")] = 6,
    num_beams: Annotated[int, typer.Option(min=1)] = 1,
    out: Out = OUT,
) -> None:
    """Compare local mode with a server and a worker started by hand, in turns."""
    found = []
    with tempfile.TemporaryDirectory(prefix="captionmill-") as name:
        folder = Path(name)
        pictures = folder / "pictures"
        draw_many(pictures, SIZE_PX, range(images))
        for number in range(rounds):
            for way in WAYS if number % 2 else reversed(WAYS):
                place = folder / f"{way.replace(' ', '-')}-{number}"
                place.mkdir()
                found.append(_round(way, pictures, place, model_folder, num_beams))
                print(f"{way:8} {found[-1].images_per_s:7.2f} images/s, {found[-1].whole_s:6.1f} s in all")
    print(_summary(found))
    write_figures(out, "local-mode", {"rounds": [asdict(one) for one in found]})


def _round(way: Way, pictures: Path, place: Path, model_folder: Path, num_beams: int) -> Round:
    command = module(
        "captionmill",
        *("run", str(pictures), "--question", QUESTION, "--num-beams", str(num_beams)),
        *("--out", str(place / "run"), "--json"),
    )
    if way == "local":
        return _timed(way, [*command, "--model", str(model_folder)])
    with _by_hand(pictures, place, model_folder) as url:
        return _timed(way, [*command, "--redis", url])


@contextmanager
def _by_hand(pictures: Path, place: Path, model_folder: Path) -> Iterator[str]:
    """The URL of a server with a ready worker."""
    with server(place) as url:
        environment = {
            "CAPTIONMILL_REDIS_URL": url,
            "CAPTIONMILL_MODEL_FOLDER": str(model_folder),
            "CAPTIONMILL_IMAGE_ROOTS": str(pictures),
        }
        log = place / "worker.log"
        with process(module("captionmill", "worker"), log, environment):
            wait_until_ready(log)
            yield url


def _timed(way: Way, command: list[str]) -> Round:
    begun = time.monotonic()
    looks: list[tuple[float, int]] = []
    rows = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as ran:
        assert ran.stdout is not None
        for line in ran.stdout:
            told = json.loads(line)
            if told["event"] == "progress":
                rows = told["rows"]
                looks.append((told["elapsed_s"], told["done"]))
    whole_s = time.monotonic() - begun
    assert ran.returncode == 0, f"{' '.join(command)} ended with {ran.returncode}"
    first = next(look for look in looks if look[1] >= BEGIN * rows)
    last = next(look for look in reversed(looks) if look[1] <= END * rows)
    return Round(way, (last[1] - first[1]) / (last[0] - first[0]), whole_s)


def _summary(found: list[Round]) -> str:
    """Ratios of runs that follow each other, as the machine's speed changes from minute to minute."""
    pairs = [sorted(found[i : i + 2], key=lambda one: one.way) for i in range(0, len(found), 2)]
    kept = [math.log(local.images_per_s / by_hand.images_per_s) for by_hand, local in pairs]
    mean, error = statistics.mean(kept), statistics.stdev(kept) / math.sqrt(len(kept))
    longer = statistics.mean(local.whole_s - by_hand.whole_s for by_hand, local in pairs)
    return (
        f"Local mode keeps {100 * math.exp(mean):.1f} % ± {100 * error:.1f} (standard error, {len(kept)} "
        f"pairs) of the throughput by hand; starting and ending its server and worker takes {longer:.1f} s."
    )
