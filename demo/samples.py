"""The demo's sample images and their true answers; knows no model."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from demo.scenes import Layout, draw, make_scene
from demo.truth import DESCRIBE, READ_NUMBER, describe

IMAGES: Final = Path(__file__).parent / "images"
MODEL_FOLDER: Final = Path(__file__).parent / "model" / "openvino"
TRUTH: Final = Path(__file__).parent / "truth.jsonl"
FIRST_SEED: Final = 500_000
LAYOUTS: Final[tuple[Layout, ...]] = ("square", "wide", "square", "tall")
COUNT: Final = 24
DESCRIBE_QUESTION: Final = DESCRIBE[0]
NUMBER_QUESTION: Final = READ_NUMBER[0]


@dataclass(frozen=True)
class Truth:
    """The right answers about a sample image."""

    image: str
    description: str
    number: str


def read_truth() -> dict[str, Truth]:
    """Image name → its truth."""
    lines = TRUTH.read_text().splitlines()
    return {truth.image: truth for truth in (Truth(**json.loads(line)) for line in lines)}


def examples() -> list[tuple[str, Path]]:
    """Three sample images, square, wide and tall, each with a question."""
    return [
        (DESCRIBE_QUESTION, IMAGES / "01-square.png"),
        (DESCRIBE_QUESTION, IMAGES / "06-wide.png"),
        (NUMBER_QUESTION, IMAGES / "04-tall.png"),
    ]


def write_samples() -> None:
    """Draw the sample images and write their truth."""
    IMAGES.mkdir(exist_ok=True)
    truths = []
    for number in range(COUNT):
        scene = make_scene(FIRST_SEED + number, layout=LAYOUTS[number % len(LAYOUTS)], scale=3.0)
        name = f"{number + 1:02d}-{scene.layout}.png"
        draw(scene).save(IMAGES / name, optimize=True)
        truths.append(Truth(name, describe(scene), scene.number))
    TRUTH.write_text("".join(json.dumps(asdict(truth)) + "\n" for truth in truths))


if __name__ == "__main__":
    write_samples()
