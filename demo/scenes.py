"""Draws the demo model's pictures from a seed: a few shapes and a small number; knows no model and no tile.

A scene is laid out in units and drawn at `scale` pixels per unit, so it can be drawn small or large.
"""

import math
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Kind = Literal["circle", "ring", "square", "triangle", "diamond", "star", "cross", "heart"]
Layout = Literal["square", "wide", "tall"]
Size = Literal["small", "large"]

KINDS: Final[tuple[Kind, ...]] = (
    "circle", "ring", "square", "triangle", "diamond", "star", "cross", "heart",
)  # fmt: skip
COLOURS: Final = {
    "red": (214, 32, 38),
    "orange": (250, 140, 10),
    "yellow": (250, 225, 30),
    "green": (30, 150, 50),
    "cyan": (40, 205, 220),
    "blue": (30, 60, 220),
    "purple": (130, 40, 180),
    "pink": (250, 120, 190),
    "brown": (115, 65, 25),
    "black": (15, 15, 15),
}
BACKGROUNDS: Final = {
    "white": (248, 248, 248),
    "grey": (165, 165, 165),
    "beige": (222, 205, 168),
    "lavender": (200, 190, 240),
}
RADIUS: Final[dict[Size, float]] = {"small": 7.5, "large": 13.5}
"""Half the side of a shape's box, in units."""
CANVASES: Final[dict[Layout, tuple[tuple[int, int], ...]]] = {
    "square": ((112, 112), (84, 112), (112, 84)),
    "wide": ((56, 168), (56, 112)),
    "tall": ((168, 56), (112, 56)),
}
"""Layout → canvases as (height, width), in units."""
CLEAR_UNITS: Final = 17.0
"""Smallest distance of two shapes on the axis that orders them, in units."""
PLATE_UNITS: Final = (13.0, 19.0)
"""(height, width) of the plate with the number, in units."""
DIGIT_UNITS: Final = 10.0
"""Height of a digit's em box in units: readable at 1 pixel per unit, not at half of that."""


@dataclass(frozen=True)
class Shape:
    """One shape; its centre is (y, x) in units."""

    kind: Kind
    colour: str
    size: Size
    centre: tuple[float, float]

    @property
    def name(self) -> str:
        return f"{self.size} {self.colour} {self.kind}"


@dataclass(frozen=True)
class Scene:
    """The content of a picture: `canvas` (height, width) and the plate's centre `plate` (y, x), in units.

    `shapes` are in reading order: left to right, or top to bottom on a clearly tall canvas.
    """

    seed: int
    layout: Layout
    canvas: tuple[int, int]
    background: str
    shapes: tuple[Shape, ...]
    number: str
    plate: tuple[float, float]
    scale: float

    @property
    def reads_downwards(self) -> bool:
        return _reading_axis(self.canvas) == 0


def _reading_axis(canvas: tuple[int, int]) -> Literal[0, 1]:
    """0 (downwards) on a clearly tall canvas, else 1 (rightwards)."""
    return 0 if canvas[0] > 1.15 * canvas[1] else 1


def make_scene(seed: int, layout: Layout | None = None, scale: float | None = None) -> Scene:
    """The scene of a seed; `layout` and `scale` (pixels per unit) override the seed's choice."""
    rng = random.Random(seed)
    drawn_layout = rng.choices(list(CANVASES), weights=(2, 1, 1))[0]
    layout = layout or drawn_layout
    height, width = rng.choice(CANVASES[layout])
    canvas = _varied(rng, height, width)
    drawn_scale = rng.uniform(1.0, 3.0)
    plate = _place_plate(rng, canvas)
    count = rng.randint(1, 4)
    shapes: tuple[Shape, ...] | None = None
    while shapes is None:
        shapes = _place_shapes(rng, canvas, plate, count)
    return Scene(
        seed=seed,
        layout=layout,
        canvas=canvas,
        background=rng.choice(list(BACKGROUNDS)),
        shapes=shapes,
        number=f"{rng.randrange(10)}{rng.randrange(10)}",
        plate=plate,
        scale=scale or drawn_scale,
    )


def _varied(rng: random.Random, height: int, width: int) -> tuple[int, int]:
    """The canvas varied by a few units, so that few pictures fill their grid exactly.

    A canvas of 1:2 is unchanged, for grids of two tiles; one of 1:3 does not get shorter, to fill its grid.
    """
    elongation = max(height, width) / min(height, width)
    if elongation == 2:
        return height, width
    if elongation < 2:
        return height + rng.randint(-3, 3), width + rng.randint(-3, 3)
    more, less = rng.randint(0, 3), rng.randint(0, 3)
    return (height + more, width - less) if height > width else (height - less, width + more)


def _place_plate(rng: random.Random, canvas: tuple[int, int]) -> tuple[float, float]:
    """Centre of the plate, near one of the four corners."""
    inset = [PLATE_UNITS[axis] / 2 + rng.uniform(1.0, 4.0) for axis in (0, 1)]
    y, x = (inset[axis] if rng.random() < 0.5 else canvas[axis] - inset[axis] for axis in (0, 1))
    return y, x


def _place_shapes(
    rng: random.Random, canvas: tuple[int, int], plate: tuple[float, float], count: int
) -> tuple[Shape, ...] | None:
    """Shapes that keep their distance from each other and the plate; None if this draw has no room."""
    main = _reading_axis(canvas)
    placed: list[Shape] = []
    for _ in range(count):
        size = rng.choice(list(RADIUS))
        radius = RADIUS[size]
        for _ in range(40):
            y, x = (rng.uniform(radius + 1, canvas[axis] - radius - 1) for axis in (0, 1))
            clear = all(
                abs((y, x)[main] - other.centre[main]) >= CLEAR_UNITS
                and max(abs(y - other.centre[0]), abs(x - other.centre[1])) >= radius + RADIUS[other.size] + 1
                for other in placed
            )
            off_plate = (
                abs(y - plate[0]) >= radius + PLATE_UNITS[0] / 2 + 1
                or abs(x - plate[1]) >= radius + PLATE_UNITS[1] / 2 + 1
            )
            if clear and off_plate:
                kind, colour = rng.choice(KINDS), rng.choice(list(COLOURS))
                placed.append(Shape(kind, colour, size, (y, x)))
                break
        else:
            return None
    return tuple(sorted(placed, key=lambda shape: shape.centre[main]))


def outline(shape: Shape) -> list[list[tuple[float, float]]]:
    """The shape as polygons of (x, y) points in units; a second polygon is a hole."""
    y, x = shape.centre
    r = RADIUS[shape.size]

    def turned(
        points: int, radii: tuple[float, ...], start: float = -math.pi / 2
    ) -> list[tuple[float, float]]:
        return [
            (
                x + r * radii[i % len(radii)] * math.cos(start + 2 * math.pi * i / points),
                y + r * radii[i % len(radii)] * math.sin(start + 2 * math.pi * i / points),
            )
            for i in range(points)
        ]

    def boxed(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x + r * px, y + r * py) for px, py in points]

    match shape.kind:
        case "circle":
            return [turned(48, (1.0,))]
        case "ring":
            return [turned(48, (1.0,)), turned(48, (0.5,))]
        case "square":
            return [boxed((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88))]
        case "triangle":
            return [boxed((0, -0.95), (1, 0.85), (-1, 0.85))]
        case "diamond":
            return [boxed((0, -1), (0.72, 0), (0, 1), (-0.72, 0))]
        case "star":
            return [turned(10, (1.0, 0.42))]
        case "cross":
            a = 0.34
            top = ((-a, -a), (-a, -1), (a, -1), (a, -a))
            right = ((1, -a), (1, a))
            bottom = ((a, a), (a, 1), (-a, 1), (-a, a))
            left = ((-1, a), (-1, -a))
            return [boxed(*top, *right, *bottom, *left)]
        case "heart":
            curve = [2 * math.pi * i / 48 for i in range(48)]
            return [
                boxed(
                    *(
                        (
                            math.sin(t) ** 3,
                            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
                            / 15.5,
                        )
                        for t in curve
                    )
                )
            ]


@lru_cache(maxsize=256)
def _font(size_px: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size_px)


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of about canvas x scale pixels."""
    height, width = (round(side * scene.scale) for side in scene.canvas)
    oversampled = 2
    zoom_y, zoom_x = height * oversampled / scene.canvas[0], width * oversampled / scene.canvas[1]
    image = Image.fromarray(_background(scene, height, width)).resize(
        (width * oversampled, height * oversampled), Image.Resampling.BILINEAR
    )
    pen = ImageDraw.Draw(image)
    for shape in scene.shapes:
        body, *holes = ([(px * zoom_x, py * zoom_y) for px, py in polygon] for polygon in outline(shape))
        if holes:
            mask = Image.new("L", image.size)
            ImageDraw.Draw(mask).polygon(body, fill=255)
            ImageDraw.Draw(mask).polygon(holes[0], fill=0)
            image.paste(COLOURS[shape.colour], mask=mask)
        else:
            pen.polygon(body, fill=COLOURS[shape.colour])
            pen.line([*body, body[0]], fill=COLOURS[shape.colour], width=2)  # the fill leaves nicks
    y, x = scene.plate
    half_y, half_x = PLATE_UNITS[0] / 2, PLATE_UNITS[1] / 2
    pen.rectangle(
        ((x - half_x) * zoom_x, (y - half_y) * zoom_y, (x + half_x) * zoom_x, (y + half_y) * zoom_y),
        fill=(255, 255, 255),
        outline=(90, 90, 90),
        width=max(1, round(0.6 * zoom_x)),
    )
    pen.text(
        (x * zoom_x, y * zoom_y),
        scene.number,
        fill=(0, 0, 0),
        font=_font(round(DIGIT_UNITS * zoom_y, 1)),
        anchor="mm",
        stroke_width=0.04 * zoom_y,
    )
    return image.reduce(oversampled)


def _background(scene: Scene, height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The background colour with a gradient and noise: (height, width, channel) u8."""
    rng = np.random.default_rng(scene.seed)
    slope = rng.uniform(-10, 10, size=2)
    rows = np.linspace(-1, 1, height)[:, None] * slope[0]
    columns = np.linspace(-1, 1, width)[None, :] * slope[1]
    grain = rng.normal(0, 3, size=(height, width))
    light = (rows + columns + grain)[:, :, None]
    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    pixels = (np.array(BACKGROUNDS[scene.background]) + light).clip(0, 255).astype(np.uint8)
    return pixels
