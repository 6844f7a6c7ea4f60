"""Draws pages, charts, tables and windows for the built-in calibration set; knows no file."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from PIL import Image, ImageDraw, ImageFont

INK: Final = (25, 25, 30)
PAPER: Final = (250, 249, 244)
SHADE: Final = (228, 230, 236)
ACCENTS: Final = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189))
MARGIN_PX: Final = 36


@dataclass(frozen=True)
class Page:
    """A picture that is drawn, and the question about it."""

    name: str
    text: str
    draw: Callable[[], Image.Image]
    held_out: bool = False


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size_px)


def lines_of_text(
    size_px: tuple[int, int], title: str, lines: tuple[str, ...], height_px: int
) -> Image.Image:
    """A page of `size_px` (height, width) with letters of `height_px`."""
    page = Image.new("RGB", size_px[::-1], PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((MARGIN_PX, MARGIN_PX), title, INK, _font(2 * height_px))
    top = MARGIN_PX + 3 * height_px
    for line in lines:
        pen.text((MARGIN_PX, top), line, INK, _font(height_px))
        top += round(1.5 * height_px)
    return page


def bars(title: str, values: dict[str, int], size_px: tuple[int, int] = (420, 600)) -> Image.Image:
    """A chart with a bar for each of `values`."""
    height, width = size_px
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    pen.text((width / 2, 24), title, INK, _font(22), anchor="mm")
    floor, step = height - 50, (width - 2 * MARGIN_PX) / len(values)
    pen.line((MARGIN_PX, 50, MARGIN_PX, floor, width - MARGIN_PX, floor), INK, 2)
    for number, (name, value) in enumerate(values.items()):
        left = MARGIN_PX + (number + 0.2) * step
        top = floor - (floor - 70) * value / max(values.values())
        pen.rectangle((left, top, left + 0.6 * step, floor), ACCENTS[number % len(ACCENTS)])
        pen.text((left + 0.3 * step, floor + 18), name, INK, _font(15), anchor="mm")
        pen.text((left + 0.3 * step, top - 10), str(value), INK, _font(15), anchor="mm")
    return page


def curves(
    title: str, rows: dict[str, tuple[int, ...]], size_px: tuple[int, int] = (400, 620)
) -> Image.Image:
    """A chart with a line and a name for each of `rows`."""
    height, width = size_px
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    pen.text((width / 2, 22), title, INK, _font(20), anchor="mm")
    floor, most = height - 40, max(max(row) for row in rows.values())
    for part in range(5):
        y = floor - (floor - 60) * part / 4
        pen.line((MARGIN_PX + 10, y, width - MARGIN_PX, y), SHADE, 1)
        pen.text((MARGIN_PX, y), f"{most * part / 4:.0f}", INK, _font(12), anchor="rm")
    for number, (name, row) in enumerate(rows.items()):
        step = (width - 3 * MARGIN_PX) / (len(row) - 1)
        places = [
            (MARGIN_PX + 10 + step * index, floor - (floor - 60) * value / most)
            for index, value in enumerate(row)
        ]
        pen.line(places, ACCENTS[number], 3)
        pen.text((places[-1][0] - 4, places[-1][1] - 12), name, ACCENTS[number], _font(15), anchor="rm")
    return page


def table(
    title: str, rows: tuple[tuple[str, ...], ...], size_px: tuple[int, int] = (360, 640)
) -> Image.Image:
    """A table, its first row shaded."""
    height, width = size_px
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    pen.text((MARGIN_PX, 20), title, INK, _font(20))
    row_px, column_px = (height - 90) / len(rows), (width - 2 * MARGIN_PX) / len(rows[0])
    for down, row in enumerate(rows):
        for across, cell in enumerate(row):
            left, top = MARGIN_PX + across * column_px, 60 + down * row_px
            box = (left, top, left + column_px, top + row_px)
            pen.rectangle(box, SHADE if down == 0 else None, (150, 150, 160), 1)
            pen.text((left + 8, top + row_px / 2), cell, INK, _font(16), anchor="lm")
    return page


def window(title: str, menu: tuple[str, ...], lines: tuple[str, ...], button: str) -> Image.Image:
    """A window of a program, with a menu at its left and a button."""
    page = Image.new("RGB", (680, 430), (60, 110, 130))
    pen = ImageDraw.Draw(page)
    pen.rounded_rectangle((20, 20, 660, 410), 10, (245, 246, 248))
    pen.rounded_rectangle((20, 20, 660, 54), 10, (52, 58, 70))
    for number, colour in enumerate(((237, 106, 94), (245, 191, 79), (98, 197, 84))):
        pen.ellipse((34 + 22 * number, 30, 48 + 22 * number, 44), colour)
    pen.text((340, 37), title, "white", _font(16), anchor="mm")
    pen.rectangle((20, 54, 180, 400), SHADE)
    for number, name in enumerate(menu):
        if number == 1:
            pen.rectangle((26, 62 + 34 * number, 174, 90 + 34 * number), ACCENTS[0])
        pen.text((40, 76 + 34 * number), name, "white" if number == 1 else INK, _font(15), anchor="lm")
    for number, line in enumerate(lines):
        pen.text((205, 80 + 26 * number), line, INK, _font(15), anchor="lm")
    pen.rounded_rectangle((520, 355, 640, 391), 8, ACCENTS[2])
    pen.text((580, 373), button, "white", _font(16), anchor="mm")
    return page


POEM: Final = (
    "The mill turns slowly in the evening wind,",
    "and grain by grain the harvest becomes flour.",
    "Children count the sacks along the wall:",
    "seventeen today, and twenty-two on Friday.",
    "Nobody remembers who built the mill,",
    "but the stone above the door says 1794.",
    "When the river freezes, the wheel stands still,",
    "and the miller writes letters to his sister.",
)
RECEIPT: Final = (
    "2 x Coffee            5.60", "1 x Apple cake        3.20", "3 x Water             4.50",
    "1 x Sandwich          6.80", "------------------------", "Total                20.10",
    "Cash                 25.00", "Change                4.90", "", "Thank you! Table 12",
)  # fmt: skip
NOTICE: Final = (
    "The swimming pool is closed from",
    "Monday 14 July until Sunday 3 August.",
    "Tickets stay valid. Questions?",
    "Call 0800 555 019 between 9 and 17.",
)
PAGES: Final = (
    Page("page", "What text or numbers can be read in the image?",
         partial(lines_of_text, (420, 620), "The mill", POEM, 18)),
    Page("receipt", "How much was paid in total?",
         partial(lines_of_text, (640, 330), "CAFE LUNA", RECEIPT, 17)),
    Page("bars", "Which bar is the highest?",
         partial(bars, "Bicycles sold", {"Jan": 12, "Feb": 19, "Mar": 34, "Apr": 51, "May": 47})),
    Page("curves", "What does the chart show?",
         partial(curves, "Visitors a day",
                 {"museum": (20, 45, 60, 58, 90, 120), "zoo": (80, 70, 95, 130, 110, 160)})),
    Page("table", "Which row has the largest number?",
         partial(table, "Rivers", (("name", "km", "country"), ("Danube", "2850", "ten"),
                                   ("Rhine", "1233", "six"), ("Seine", "777", "France"),
                                   ("Thames", "346", "England")))),
    Page("window", "What can the user do in this window?",
         partial(window, "Settings", ("General", "Network", "Sound", "Users"),
                 ("Name of the network: mill-5", "Password: ********", "Address: 192.0.2.17",
                  "Speed: 866 Mbit/s"),
                 "Connect")),
    Page("notice", "Until when is the pool closed?",
         partial(lines_of_text, (300, 640), "CLOSED", NOTICE, 24), held_out=True),
    Page("chart", "What does the chart show?",
         partial(bars, "Rain in mm", {"Oslo": 64, "Rome": 38, "Lima": 2, "Cork": 97}, (380, 640)),
         held_out=True),
    Page("mail", "Describe everything in the picture in detail, and where it is.",
         partial(window, "Mail", ("Inbox", "Sent", "Drafts", "Trash"),
                 ("From: Ada", "Subject: The train at 9:40", "", "See you on platform 3.",
                  "Bring the red bag."),
                 "Reply"), held_out=True),
)  # fmt: skip
"""All drawn pictures but the scenes."""
