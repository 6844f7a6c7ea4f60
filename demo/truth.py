"""Questions about a scene and their true answers, as the demo model learns them; knows no picture."""

import random
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from demo.scenes import COLOURS, KINDS, Scene, Shape

Topic = Literal[
    "description", "number", "count", "colour", "shape", "size", "position", "yes-no", "background"
]  # fmt: skip
TOPICS: Final[tuple[Topic, ...]] = (
    "description", "number", "count", "colour", "shape", "size", "position", "yes-no", "background",
)  # fmt: skip

DESCRIBE: Final = ("Describe the image.", "What is in the image?", "Write a caption for this image.")
READ_NUMBER: Final = ("What number is printed in the image?", "Read the number.")


@dataclass(frozen=True)
class Exchange:
    """A question and its right answer."""

    topic: Topic
    question: str
    answer: str


def article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def describe(scene: Scene) -> str:
    """A sentence with the shapes in reading order and the background."""
    names = [article(shape.name) for shape in scene.shapes]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    order = ""
    if len(names) > 1:
        order = "from top to bottom, " if scene.reads_downwards else "from left to right, "
    sentence = f"{order}{listed} on a {scene.background} background."
    return sentence[0].upper() + sentence[1:]


def ask(scene: Scene, topic: Topic, rng: random.Random) -> Exchange | None:
    """A question of this topic, drawn by `rng`; None if the scene allows none."""
    drawn = _DRAW[topic](scene, rng)
    return None if drawn is None else Exchange(topic, *drawn)


Drawn = tuple[str, str] | None


def _description(scene: Scene, rng: random.Random) -> Drawn:
    return rng.choice(DESCRIBE), describe(scene)


def _number(scene: Scene, rng: random.Random) -> Drawn:
    return rng.choice(READ_NUMBER), scene.number


def _count(scene: Scene, rng: random.Random) -> Drawn:
    if rng.random() < 0.5:
        return "How many shapes are there?", str(len(scene.shapes))
    colour = rng.choice(scene.shapes).colour if rng.random() < 0.7 else rng.choice(list(COLOURS))
    return f"How many {colour} shapes are there?", str(sum(shape.colour == colour for shape in scene.shapes))


def _known_by_colour(scene: Scene) -> list[Shape]:
    """The shapes whose colour no other shape has."""
    counts = Counter(shape.colour for shape in scene.shapes)
    return [shape for shape in scene.shapes if counts[shape.colour] == 1]


def _colour(scene: Scene, rng: random.Random) -> Drawn:
    first, last = ("topmost", "bottommost") if scene.reads_downwards else ("leftmost", "rightmost")
    place, shape = rng.choice([(first, scene.shapes[0]), (last, scene.shapes[-1])])
    return f"What colour is the {place} shape?", shape.colour


def _shape(scene: Scene, rng: random.Random) -> Drawn:
    known = _known_by_colour(scene)
    if not known:
        return None
    shape = rng.choice(known)
    return f"Which shape is {shape.colour}?", shape.kind


def _size(scene: Scene, rng: random.Random) -> Drawn:
    known = _known_by_colour(scene)
    if not known:
        return None
    shape = rng.choice(known)
    return f"Is the {shape.colour} shape large or small?", shape.size


def _position(scene: Scene, rng: random.Random) -> Drawn:
    """A question about the neighbour, in reading order, of a shape with a unique colour."""
    pairs = list(pairwise(scene.shapes))
    after, before = ("below", "above") if scene.reads_downwards else ("right of", "left of")
    known = _known_by_colour(scene)
    asked = [(a, after, b) for a, b in pairs if a in known] + [(b, before, a) for a, b in pairs if b in known]
    if not asked:
        return None
    shape, where, neighbour = rng.choice(asked)
    return f"What colour is the shape just {where} the {shape.colour} shape?", neighbour.colour


def _yes_no(scene: Scene, rng: random.Random) -> Drawn:
    if rng.random() < 0.5:
        seen = rng.choice(scene.shapes).colour if rng.random() < 0.5 else rng.choice(list(COLOURS))
        return f"Is there {article(seen)} shape?", _yes(any(shape.colour == seen for shape in scene.shapes))
    there = {(shape.colour, shape.kind) for shape in scene.shapes}
    if rng.random() < 0.5:
        colour, kind = rng.choice(sorted(there))
    else:
        # half of the false ones share colour or kind with an existing shape
        near = rng.choice(scene.shapes)
        colour, kind = rng.choice(list(COLOURS)), rng.choice(KINDS)
        if rng.random() < 0.5:
            colour, kind = rng.choice([(near.colour, kind), (colour, near.kind)])
    return f"Is there {article(f'{colour} {kind}')}?", _yes((colour, kind) in there)


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _background(scene: Scene, rng: random.Random) -> Drawn:
    del rng
    return "What colour is the background?", scene.background


_DRAW: Final = {
    "description": _description,
    "number": _number,
    "count": _count,
    "colour": _colour,
    "shape": _shape,
    "size": _size,
    "position": _position,
    "yes-no": _yes_no,
    "background": _background,
}
