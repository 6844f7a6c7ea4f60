"""Measures the demo model on unseen scenes, and compares its folder with its checkpoint; trains nothing.

python -m demo.evaluate                                  # the shipped folder, and the checkpoint
python -m demo.evaluate --quick                          # the shipped folder only; needs no torch
python -m demo.evaluate --settings all                   # folders made now with every setting
python -m demo.evaluate --settings int8,balanced --folder A --folder B
"""

import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

from contract.job import GenerationParameters, Question
from contract.model_folder import LANGUAGE_XML, VISION_XML
from demo.scenes import Layout, Scene, draw, make_scene
from demo.truth import TOPICS, Exchange, ask
from worker.engine.admission import Limits
from worker.engine.loop import Engine
from worker.engine.request import Prefix, Request
from worker.engine.stateful import StatefulRunner
from worker.llava.image_encoder import ImageFeatures
from worker.llava.model import LlavaModel

MODEL: Final = Path(__file__).parent / "model"
EXACT: Final = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
LAYOUTS: Final[tuple[Layout, ...]] = ("square", "wide", "tall")
MAX_NEW_TOKENS: Final = 80
BASE_TOPIC: Final = "number"
SUMMARY: Final = ("description", "number", "short answers")
"""Rows of a tally that a comparison prints."""
LIMITS: Final = Limits(kv_bytes=2**30, rows=16, step_tokens=1024)

Answers = list[list[str]]
"""For each scene, the answer to each of its questions."""


@dataclass(frozen=True)
class Case:
    """A held-out scene, its picture, and one question for every topic that it allows."""

    scene: Scene
    image: Image.Image
    exchanges: tuple[Exchange, ...]


def held_out(scenes: int, first_seed: int) -> Iterator[Case]:
    """Scenes with seeds below 1,000,000, which are never trained on: square, wide and tall in turn."""
    for seed in range(first_seed, first_seed + scenes):
        scene = make_scene(seed, layout=LAYOUTS[seed % len(LAYOUTS)])
        rng = random.Random(seed)
        exchanges = tuple(exchange for topic in TOPICS if (exchange := ask(scene, topic, rng)))
        yield Case(scene, draw(scene), exchanges)


class FolderAnswers:
    """Answers of a model folder, by the worker's pipeline and engine."""

    def __init__(self, folder: Path, properties: dict[str, str]) -> None:
        self.model = LlavaModel.load(folder, "CPU", properties)
        runner = StatefulRunner.load(self.model.language_xml, "CPU", properties)
        self.engine = Engine(runner, self.model.embed, LIMITS)

    def close(self) -> None:
        self.engine.close()

    def __call__(self, case: Case) -> list[str]:
        return self.about(self.model.encode_image(case.image), case)

    def about(self, features: ImageFeatures, case: Case) -> list[str]:
        """The answers about `features` of the case's picture."""
        return self._ask([exchange.question for exchange in case.exchanges], features)

    def from_base_tile(self, case: Case) -> str:
        """The answer about the number, from the base tile only."""
        base = self.model.encode_image(case.image, detail="low")
        (exchange,) = (e for e in case.exchanges if e.topic == BASE_TOPIC)
        return self._ask([exchange.question], base)[0]

    def _ask(self, questions: Sequence[str], features: ImageFeatures) -> list[str]:
        futures = [self.engine.submit(self._request(text, features)) for text in questions]
        return [self.model.decode(future.result()[0].token_ids) for future in futures]

    def _request(self, text: str, features: ImageFeatures) -> Request:
        prompt = self.model.prompt(Question(id="q", messages=text), features)
        assert prompt.prefix_key is not None, "a question comes after its image"
        return Request(
            inputs_embeds=prompt.inputs_embeds,
            token_ids=prompt.token_ids,
            eos_token_ids=self.model.eos_token_ids,
            parameters=GenerationParameters(max_new_tokens=MAX_NEW_TOKENS),
            positions=prompt.positions,
            prefix=Prefix(prompt.prefix_key, prompt.prefix_tokens),
        )


def checkpoint_answers(folder: Path) -> Callable[[Case], list[str]]:
    """The checkpoint's greedy answers, by transformers in float32."""
    import torch
    from transformers import AutoProcessor, LlavaNextForConditionalGeneration

    model = LlavaNextForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")

    def answer(case: Case) -> list[str]:
        texts = [
            processor.apply_chat_template(
                [
                    {
                        "role": "user",
                        "content": [{"type": "image"}, {"type": "text", "text": exchange.question}],
                    }
                ],
                add_generation_prompt=True,
            )
            for exchange in case.exchanges
        ]
        inputs = processor(images=[case.image] * len(texts), text=texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        generated = tokens[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in processor.batch_decode(generated, skip_special_tokens=True)]

    return answer


class Tally:
    """Right answers by topic and layout."""

    def __init__(self) -> None:
        self._marks: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)

    def add(self, case: Case, answers: Sequence[str]) -> None:
        for exchange, answer in zip(case.exchanges, answers, strict=True):
            for group in ("all", case.scene.layout):
                right = answer == exchange.answer
                self._marks[exchange.topic, group].append(right)
                if exchange.topic not in ("description", "number"):
                    self._marks["short answers", group].append(right)

    def rows(self) -> Iterator[list[str]]:
        for topic in ("description", "number", "short answers", *TOPICS[2:]):
            marks = [self._marks[topic, group] for group in ("all", *LAYOUTS)]
            name = topic if topic in ("description", "number", "short answers") else f"– {topic}"
            yield [name, *(f"{100 * np.mean(mark):.1f}" for mark in marks), str(len(marks[0]))]


def matches(ours: Answers, theirs: Answers) -> tuple[int, int]:
    """Number of equal answers, and of all answers."""
    pairs = [
        (a, b)
        for ours_, theirs_ in zip(ours, theirs, strict=True)
        for a, b in zip(ours_, theirs_, strict=True)
    ]
    return sum(a == b for a, b in pairs), len(pairs)


def agreement(ours: Answers, theirs: Answers) -> str:
    """Share of equal answers."""
    same, asked = matches(ours, theirs)
    return f"{same} of {asked} ({100 * same / asked:.2f} %)"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(row_of(line) for line in [head, ["---"] * len(head), *rows])


def row_of(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def evaluate(
    scenes: Annotated[int, typer.Option(min=3, help="Number of held-out scenes.")] = 600,
    first_seed: Annotated[int, typer.Option(min=0, max=900_000, help="Seed of the first scene.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Evaluate the shipped folder only.")] = False,
    settings: Annotated[
        str | None,
        typer.Option(help="Compare folders with these settings, separated by commas, or all, with fp32."),
    ] = None,
    folder: Annotated[list[Path] | None, typer.Option(help="Also compare this folder.")] = None,
) -> None:
    """Print the tables of demo/README.md, or of docs/compression.md with --settings and --folder."""
    console = Console(stderr=True)
    cases = list(track(held_out(scenes, first_seed), "drawing", total=scenes, console=console))
    if settings or folder:
        _compare(cases, settings, folder or [], console)
    else:
        _judge(cases, console, quick=quick)


def _judge(cases: Sequence[Case], console: Console, *, quick: bool) -> None:
    """Print how often the shipped folder is right, and how often its checkpoint gives the same answer."""
    shipped = FolderAnswers(MODEL / "openvino", EXACT)
    answers = [shipped(case) for case in track(cases, "model folder, f32", console=console)]
    tallied = tally(cases, answers)
    base = [
        shipped.from_base_tile(case) == case.scene.number
        for case in track(cases, "base tile alone", console=console)
    ]
    shipped.close()
    print(markdown(["% right", "all", *LAYOUTS, "questions"], list(tallied.rows())))
    print(f"\nNumber from the base tile alone: {100 * np.mean(base):.1f} %.")
    if quick:
        return
    ask_checkpoint = checkpoint_answers(MODEL / "checkpoint")
    theirs = [ask_checkpoint(case) for case in track(cases, "checkpoint, f32", console=console)]
    print(f"\nSame answer as the checkpoint in transformers, f32: {agreement(answers, theirs)}.")
    ours = _answers(MODEL / "openvino", {}, cases, "model folder, defaults", console)
    print(f"Same answer with OpenVINO's default precision: {agreement(ours, answers)}.")


def _compare(cases: Sequence[Case], named: str | None, folders: Sequence[Path], console: Console) -> None:
    """Print a row for each setting and folder: answers equal to the fp32 folder's in f32, and right ones.

    All other folders compute in OpenVINO's default precision, as a worker does.
    """
    from demo.compression import SETTINGS, Workshop

    names = list(SETTINGS) if named == "all" else [name.strip() for name in (named or "").split(",") if name]
    for name in names:
        if name not in SETTINGS:
            sys.exit(f"There are no settings {name!r}; there are {', '.join(SETTINGS)}.")
    with tempfile.TemporaryDirectory() as scratch:
        exact = Path(scratch) / "fp32"
        _convert(exact, "--weight-format", "fp32")
        expected = _answers(exact, EXACT, cases, "fp32 folder, f32", console)
        head = ["settings", "language", "vision", "unchanged", "%", *(f"{t}, % right" for t in SUMMARY)]
        print(markdown(head, [_row("fp32, computed in f32", exact, cases, expected, expected)]), flush=True)
        workshop = Workshop(exact)
        for name in names:
            made = Path(scratch) / name
            if SETTINGS[name].within_bounds:
                _convert(made, "--preset", name)
            else:
                workshop.make(SETTINGS[name], made)
            answers = _answers(made, {}, cases, name, console)
            print(row_of(_row(name, made, cases, answers, expected)), flush=True)
        for folder in folders:
            answers = _answers(folder, {}, cases, str(folder), console)
            print(row_of(_row(folder.name, folder, cases, answers, expected)), flush=True)


def _row(name: str, folder: Path, cases: Sequence[Case], answers: Answers, expected: Answers) -> list[str]:
    megabytes = [
        f"{(folder / xml).with_suffix('.bin').stat().st_size / 1e6:.1f} MB"
        for xml in (LANGUAGE_XML, VISION_XML)
    ]
    right = {row[0]: row[1] for row in tally(cases, answers).rows()}
    same, asked = matches(answers, expected)
    unchanged = [f"{same} of {asked}", f"{100 * same / asked:.2f}"]
    return [name, *megabytes, *unchanged, *(right[topic] for topic in SUMMARY)]


def tally(cases: Sequence[Case], answers: Answers) -> Tally:
    found = Tally()
    for case, answer in zip(cases, answers, strict=True):
        found.add(case, answer)
    return found


def _answers(
    folder: Path, properties: dict[str, str], cases: Sequence[Case], what: str, console: Console
) -> Answers:
    model = FolderAnswers(folder, properties)
    try:
        return [model(case) for case in track(cases, what, console=console)]
    finally:
        model.close()


def _convert(out: Path, *options: str) -> None:
    """Convert in a child process, so that torch's threads do not compete for the cores."""
    command = [sys.executable, "-m", "model_prep", "convert", str(MODEL / "checkpoint")]
    subprocess.run([*command, "--out", str(out), *options], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    typer.run(evaluate)
