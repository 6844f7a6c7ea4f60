"""Writes one self-contained HTML page of images and their answers; knows no run."""

import base64
import html
import json
import random
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from contract.answer import Answer
from contract.failure import Failure
from producer.contact_sheet_page import FOOT, HEAD, PICTURES, ROWS
from producer.rows import Answered, AnsweredRow, ReadImage
from producer.sinks.answers import prompt_text
from producer.sinks.columns import printable
from producer.thumbnails import thumbnails

MAX_ROWS: Final = 10_000
"""Number of rows on a page; it shows a sample of a larger run."""
MAX_SAMPLED_FAILURES: Final = 5_000
"""Number of rows with failures up to which a sample holds all of them."""
BLOCK_ROWS: Final = 100
"""Number of rows whose pictures the page's script parses at once."""
PICTURES_MAX_BYTES: Final = 36_000_000
"""Bytes of all JPEGs of a page, before base64 makes them a third larger."""
SIDES_PX: Final = ((500, 320), (2_000, 240), (MAX_ROWS, 160))
"""(largest number of rows, longer side of a thumbnail in pixels)."""


def write_contact_sheet(
    rows: Iterable[AnsweredRow], page: BinaryIO, title: str, read_image: ReadImage
) -> None:
    """Write the page. At most about MAX_ROWS rows are held at a time."""
    sample = _sampled(rows)
    shown = sample.rows
    side_px = next(side_px for most, side_px in SIDES_PX if len(shown) <= most)
    max_bytes = PICTURES_MAX_BYTES // max(len(shown), 1)
    made = thumbnails(map(read_image, shown), side_px=side_px, max_bytes=max_bytes)
    with closing(made) as pictures:
        head = HEAD.substitute(title=html.escape(printable(title)), notice=_notice(sample))
        page.write(head.encode())
        for number in range(0, len(shown), BLOCK_ROWS):
            block = shown[number : number + BLOCK_ROWS]
            page.write(_block(ROWS, map(_fields, block)))
            page.write(_block(PICTURES, (_encoded(next(pictures)) for _ in block)))
        page.write(FOOT.encode())


@dataclass(frozen=True)
class _Sample:
    rows: list[AnsweredRow]
    """In order of position."""
    all_rows: int
    all_failed: int
    failed: int


class _Reservoir:
    """A random sample of `size` rows, each with the same chance; the same sample every time."""

    def __init__(self, size: int) -> None:
        self.rows: list[AnsweredRow] = []
        self.seen = 0
        self._size = size
        self._random = random.Random(0)

    def add(self, row: AnsweredRow) -> None:
        self.seen += 1
        if len(self.rows) < self._size:
            self.rows.append(row)
        elif (place := self._random.randrange(self.seen)) < self._size:
            self.rows[place] = row

    def at_most(self, count: int) -> list[AnsweredRow]:
        return self.rows if len(self.rows) <= count else self._random.sample(self.rows, count)


def _sampled(rows: Iterable[AnsweredRow]) -> _Sample:
    failed, answered = _Reservoir(MAX_ROWS), _Reservoir(MAX_ROWS)
    for row in rows:
        has_failure = any(isinstance(one.outcome, Failure) for one in row.answers)
        (failed if has_failure else answered).add(row)
    everything = failed.seen + answered.seen
    of_failed = failed.rows
    if everything > MAX_ROWS:
        of_failed = failed.at_most(max(MAX_SAMPLED_FAILURES, MAX_ROWS - answered.seen))
    chosen = of_failed + answered.at_most(MAX_ROWS - len(of_failed))
    chosen.sort(key=lambda row: row.position)
    return _Sample(chosen, everything, failed.seen, len(of_failed))


def _notice(sample: _Sample) -> str:
    if len(sample.rows) == sample.all_rows:
        return ""
    return (
        f'<p id="sample">A sample: {len(sample.rows):,} of {sample.all_rows:,} rows, with {sample.failed:,} '
        f"of the {sample.all_failed:,} that have a failure.</p>\n"
    )


def _block(around: tuple[str, str], values: Iterable[Any]) -> bytes:
    """JSON in a script element, one value a line; no character in it can end the element."""
    lines = (json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in values)
    inner = ",\n".join(lines)
    for character in "<>&\u2028\u2029":
        inner = inner.replace(character, f"\\u{ord(character):04x}")
    return (around[0] + inner + around[1]).encode()


def _encoded(jpeg: bytes | None) -> str | None:
    return None if jpeg is None else base64.b64encode(jpeg).decode()


def _fields(row: AnsweredRow) -> dict[str, Any]:
    return {
        "id": printable(row.id),
        "name": None if row.name is None else printable(row.name),
        "answers": [_answer(one) for one in row.answers],
    }


def _answer(one: Answered) -> dict[str, Any]:
    asked = {"question": one.question, "prompt": prompt_text(one.prompt)}
    if not isinstance(one.outcome, Answer):
        return {**asked, "code": one.outcome.code.value, "message": one.outcome.message}
    return {
        **asked,
        "text": one.outcome.text,
        "score": round(one.outcome.score, 4),
        "mean_log_prob": round(one.outcome.mean_log_prob, 4),
        "flags": one.outcome.flags,
        "choices": [(choice.text, round(choice.probability, 4)) for choice in one.outcome.choices],
    }
