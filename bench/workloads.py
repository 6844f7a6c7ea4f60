"""The workloads as data, and their pictures; knows no engine."""

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from PIL import Image

from bench.peers.protocol import Ask

QUESTIONS: Final = (
    "What is shown in this image?",
    "Describe the picture in one sentence.",
    "How many objects can be counted, and what are they?",
    "Is the left side brighter than the right side? Answer yes or no.",
    "Which colour covers the largest part of the image?",
    "List everything that a person who cannot see it should know.",
    "What is at the top?",
    "Where could this have been taken, and at what time of the day?",
)
MIXED_SIZES_PX: Final = ((480, 640), (1200, 600), (720, 1280), (1000, 400), (360, 1100), (600, 1200))
"""(height, width) of pictures of different sizes, which use every pinpoint."""
ONE_SIZE_PX: Final = ((480, 640),)
LONG_SHARES: Final = (1.0, 0.25, 0.75, 0.375, 0.875, 0.5, 0.625, 0.125)
"""Lengths of the long answers, as shares of the longest one."""
LONG_FACTOR: Final = 8
"""Length of the longest answer, as a multiple of an ordinary one."""
RATE_TOKENS: Final = (2, 130)
"""New tokens of two works; the difference of their times is decoding only."""
UNIT_WORKS: Final = frozenset({"rate-1-few", "rate-1-many", "rate-8-few", "rate-8-many", "prefill"})
"""Works whose results are rates and not times."""
LONE_WORKS: Final = frozenset({"one-1", "beam-4", "rate-1-few", "rate-1-many", "prefill"})
"""Works with one ask, for which batch and single are the same."""
BOXES: Final = 12


@dataclass(frozen=True)
class Work:
    """Asks that are given at once, with answers of fixed length."""

    name: str
    title: str
    sizes_px: tuple[tuple[int, int], ...]
    """(height, width) of the pictures, in turn by their numbers; empty for text only."""
    asks: tuple[tuple[int, str, int], ...]
    """(number of the picture, question, new tokens)."""
    num_beams: int = 1
    detail: Literal["low", "high"] = "high"
    visual_tokens: int | None = None

    @property
    def new_tokens(self) -> int:
        return sum(tokens for _, _, tokens in self.asks)

    def first(self, asks: int) -> "Work":
        """The work with its first `asks` asks only."""
        return replace(self, asks=self.asks[:asks])

    def drawn(self, folder: Path, label: str) -> tuple[Ask, ...]:
        """The asks with pictures drawn into `folder`, different for each work and `label`.

        New pictures in each run keep an engine from using its cache of earlier runs. Text-only questions
        begin with the label for the same reason.
        """
        asks = []
        for number, question, new_tokens in self.asks:
            if not self.sizes_px:
                asks.append(Ask(None, f"{label} {question}", new_tokens))
                continue
            path = folder / f"{self.name}-{label}-{number}.png"
            if not path.exists():
                draw(self.sizes_px[number % len(self.sizes_px)], zlib.crc32(path.name.encode())).save(path)
            asks.append(Ask(str(path), question, new_tokens))
        return tuple(asks)


def make_works(pictures: int, new_tokens: int, text_words: int) -> dict[str, Work]:
    """Name → work; `text_words` is the length of the prompt without a picture, about that of a picture."""
    distinct = tuple((number, QUESTIONS[number % len(QUESTIONS)], new_tokens) for number in range(pictures))
    long_answers = tuple(
        (number, question, max(1, round(share * LONG_FACTOR * new_tokens)))
        for number, (question, share) in enumerate(zip(QUESTIONS, LONG_SHARES, strict=True))
    )

    def one_picture(questions: int, tokens: int = new_tokens) -> tuple[tuple[int, str, int], ...]:
        return tuple((0, question, tokens) for question in QUESTIONS[:questions])

    few, many = RATE_TOKENS
    works = (
        Work("distinct", f"{pictures} pictures, 1 question each", MIXED_SIZES_PX, distinct),
        Work("low", f"{pictures} pictures at detail=low", MIXED_SIZES_PX, distinct, detail="low"),
        Work(
            "quarter",
            f"{pictures} pictures with a quarter of their tokens",
            MIXED_SIZES_PX,
            distinct,
            visual_tokens=text_words // 4,
        ),
        Work("one-1", "1 picture, 1 question", ONE_SIZE_PX, one_picture(1)),
        Work("one-4", "1 picture, 4 questions", ONE_SIZE_PX, one_picture(4)),
        Work("one-8", "1 picture, 8 questions", ONE_SIZE_PX, one_picture(8)),
        Work("beam-4", "1 picture, 1 question, 4 beams", ONE_SIZE_PX, one_picture(1), num_beams=4),
        Work("long", f"8 pictures, up to {LONG_FACTOR * new_tokens} tokens", ONE_SIZE_PX, long_answers),
        Work("rate-1-few", f"1 row, {few} tokens", ONE_SIZE_PX, one_picture(1, few)),
        Work("rate-1-many", f"1 row, {many} tokens", ONE_SIZE_PX, one_picture(1, many)),
        Work("rate-8-few", f"8 rows, {few} tokens", ONE_SIZE_PX, one_picture(8, few)),
        Work("rate-8-many", f"8 rows, {many} tokens", ONE_SIZE_PX, one_picture(8, many)),
        Work("prefill", "text alone, 1 token", (), ((0, "is it so " * (text_words // 3), 1),)),
    )
    return {work.name: work for work in works}


def draw_many(folder: Path, size_px: tuple[int, int], seeds: range) -> None:
    """Make `folder` and draw a picture for each seed into it."""
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        draw(size_px, seed).save(folder / f"{seed:06d}.png")


def draw(size_px: tuple[int, int], seed: int) -> Image.Image:
    """An RGB picture of `size_px` (height, width): two gradients, and boxes of one colour or of noise."""
    random = np.random.default_rng(seed)
    height, width = size_px
    down, across = np.mgrid[0 : 1 : complex(height), 0 : 1 : complex(width)]
    slopes = random.uniform(0, 127, (2, 3))
    picture = down[..., None] * slopes[0] + across[..., None] * slopes[1]
    for box in range(BOXES):
        top, left = random.integers(0, height * 3 // 4), random.integers(0, width * 3 // 4)
        area = picture[top : top + height // 5, left : left + width // 5]
        area[:] = random.uniform(0, 255, 3 if box % 2 else area.shape)
    return Image.fromarray(picture.astype(np.uint8))
