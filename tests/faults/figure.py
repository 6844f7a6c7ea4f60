"""Small line charts, one above the other, as SVG; knows nothing of what they show."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

WIDTH: Final = 760
HEIGHT: Final = 110
LEFT: Final = 60
RIGHT: Final = 15
TOP: Final = 24
BOTTOM: Final = 22


@dataclass(frozen=True)
class Line:
    """Values over minutes; the axis begins at 0."""

    title: str
    unit: str
    minutes: Sequence[float]
    values: Sequence[float]


def write_svg(lines: Sequence[Line], path: Path) -> None:
    height = HEIGHT * len(lines)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for number, line in enumerate(lines):
        parts += _chart(line, number * HEIGHT)
    path.write_text("\n".join([*parts, "</svg>\n"]))


def _chart(line: Line, top: int) -> list[str]:
    most = 1.15 * max(line.values) or 1.0
    first, last = line.minutes[0], max(line.minutes[-1], line.minutes[0] + 1)
    bottom = top + HEIGHT - BOTTOM

    def place(minute: float, value: float) -> str:
        x = LEFT + (minute - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        y = bottom - value / most * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    points = " ".join(place(*one) for one in zip(line.minutes, line.values, strict=True))
    unit = f", {line.unit}" if line.unit else ""
    end = WIDTH - RIGHT
    return [
        f'<text x="{LEFT}" y="{top + 15}">{escape(line.title + unit)}</text>',
        f'<line x1="{LEFT}" y1="{bottom}" x2="{end}" y2="{bottom}" stroke="#999"/>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{LEFT - 6}" y="{top + TOP + 10}" text-anchor="end">{most:.0f}</text>',
        f'<text x="{LEFT}" y="{bottom + 14}">{first:.0f} min</text>',
        f'<text x="{end}" y="{bottom + 14}" text-anchor="end">{last:.0f} min</text>',
        f'<polyline points="{points}" fill="none" stroke="#1f5fa8" stroke-width="1.3"/>',
    ]
