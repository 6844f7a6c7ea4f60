"""The measurement `prep`: time, memory and disk of a conversion by stage; knows no engine.

Conversion and first answer run in child processes, which report to this one.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import typer

from bench.machine import describe
from bench.options import OUT, Out, progress
from bench.sizes import SHAPES, ShapeName
from bench.workloads import MIXED_SIZES_PX, draw
from contract.model_folder import VisionFormat, WeightFormat
from model_prep.settings import LanguageSettings, PrepSettings, VisionSettings
from model_prep.verified import VERIFICATION_MD

CLEAR_PEAK: Final = "5"
"""Value for /proc/self/clear_refs that resets the peak of the resident set."""
VERIFYING: Final = "verifying"
"""model_prep's name of the verification stage."""
WORKER: Final = "worker"
"""Beginning of the names of stages after the conversion."""


@dataclass(frozen=True)
class StageFigures:
    """Figures of one stage."""

    stage: str
    seconds: float
    peak_resident_bytes: int
    private_bytes: int
    """Resident memory at the end of the stage, without file pages, which the system can take back."""
    disk_bytes: int
    """Size of work folder and result at the end of the stage."""


class StageMeter:
    """Measures the stages of the converting process, and prints each as a line of JSON."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stage: str | None = None
        self._begun = time.monotonic()

    def __call__(self, stage: str) -> None:
        self.end()
        self._stage, self._begun = stage, time.monotonic()
        Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)

    def end(self) -> None:
        if self._stage is None:
            return
        figures = StageFigures(
            stage=self._stage,
            seconds=time.monotonic() - self._begun,
            peak_resident_bytes=_status("VmHWM"),
            private_bytes=_status("RssAnon"),
            disk_bytes=_disk_bytes(self._folder),
        )
        print(json.dumps(asdict(figures)), flush=True)


def measured_stages(script: str, arguments: list[str]) -> Iterator[StageFigures]:
    """Run `script` in a child process and yield the figures it prints. Raises CalledProcessError."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield StageFigures(**json.loads(line))
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


CONVERT: Final = """
import sys
from pathlib import Path
from bench.prep import StageMeter
from model_prep.convert import convert
from model_prep.settings import PrepSettings
checkpoint, out, settings, calibration, memory_gib = sys.argv[1:]
meter = StageMeter(Path(out).parent)
convert(checkpoint, Path(out), PrepSettings.model_validate_json(settings), calibration=calibration or None,
        on_stage=meter, memory_bytes=round(float(memory_gib) * 2**30) if memory_gib else None)
meter.end()
"""
ANSWER: Final = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from bench.prep import StageMeter
from bench.workloads import draw
from contract.job import ImagePath, Job
from worker.settings import Settings
from worker.startup import load_worker
folder, pictures = Path(sys.argv[1]), Path(sys.argv[2])
meter = StageMeter(folder)
meter("worker: loading the folder")
worker = load_worker(Settings(model_folder=folder, image_roots=str(pictures)))
meter("worker: one image, 16 tokens")
draw((480, 640), seed=1).save(pictures / "one.png")
question = {"id": "0", "messages": "What is shown in this image?"}
job = Job.model_validate({"run": "bench", "index": 0, "image": ImagePath.of(pictures / "one.png"),
                          "questions": [question], "parameters": {"max_new_tokens": 16}})
(result,) = worker.parts.service.answer(job).results
meter.end()
print(result.outcome, file=sys.stderr)
worker.close()
"""


def measure_conversion(
    checkpoint: Path, out: Path, settings: str, pictures: Path | None, memory_gib: float | None = None
) -> Iterator[StageFigures]:
    """The stages of converting `checkpoint` into `out`, then of a worker that loads it and answers.

    `settings` is PrepSettings as JSON, `pictures` a folder to calibrate with, `memory_gib` the memory for
    verifying, by default what is available.
    """
    told = "" if memory_gib is None else str(memory_gib)
    yield from measured_stages(CONVERT, [str(checkpoint), str(out), settings, str(pictures or ""), told])
    with tempfile.TemporaryDirectory(prefix="captionmill-prep-") as asked:
        yield from measured_stages(ANSWER, [str(out), asked])


def share_of(stage: str, stages: Sequence[StageFigures]) -> float:
    """Share of a stage in the time of the conversion, without the worker's stages."""
    seconds = {one.stage: one.seconds for one in stages if not one.stage.startswith(WORKER)}
    return seconds[stage] / sum(seconds.values())


def _status(field: str) -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[field].split()[0]) * 1024


def _disk_bytes(folder: Path) -> int:
    """Size on disk of all files below `folder`, each counted once."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            status = os.stat(os.path.join(root, name))
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def main(
    shape: Annotated[ShapeName, typer.Option(help="Shape of the random model.")] = "llava-v1.6-mistral-7b",
    weight_format: Annotated[
        WeightFormat, typer.Option(help="Weight format of the language model.")
    ] = "int4",
    vision_format: Annotated[VisionFormat, typer.Option(help="Format of the vision model.")] = "int8",
    samples: Annotated[int, typer.Option(min=1, help="Pictures to calibrate with.")] = 8,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Layers of the language model; by default the shape's.")
    ] = None,
    memory_gib: Annotated[
        float | None, typer.Option(min=0, help="Memory for verifying; by default what is available.")
    ] = None,
    out: Out = OUT,
) -> None:
    """Convert a checkpoint of a published shape and answer with it: time, memory and disk by stage."""
    from bench.checkpoint import write_shape

    settings = PrepSettings(
        language=LanguageSettings(weight_format=weight_format),
        vision=VisionSettings(vision_format=vision_format),
        samples=samples,
    )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prep-", dir=out) as folder:
        work = Path(folder)
        progress.log("random weights")
        size = SHAPES[shape] if layers is None else replace(SHAPES[shape], text_layers=layers)
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
