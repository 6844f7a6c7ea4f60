"""Says what to do about failures that hit every row alike; sends nothing."""

import os
import shlex
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract.failure import Failure, FailureCode
from contract.job import ImageMember, ImagePath
from contract.quoting import quoted
from contract.store import WorkerRecord
from producer.rows import Row, RowImage
from producer.sources import shown
from producer.sources.names import other_spelling
from producer.worker_line import few_folders

HIT_EVERY_ROW: Final = frozenset(
    {
        FailureCode.IMAGE_NOT_FOUND,
        FailureCode.IMAGE_NOT_ALLOWED,
        FailureCode.IMAGE_UNREADABLE,
        FailureCode.URL_NOT_ALLOWED,
        FailureCode.DOWNLOAD_FAILED,
        FailureCode.QUESTION_TOO_LONG,
        FailureCode.QUESTION_REFUSED,
        FailureCode.WRONG_MODEL,
        FailureCode.UNSUPPORTED_VERSION,
        FailureCode.EXCEEDS_CAPACITY,
    }
)
"""Failure codes whose cause may be the workers or the command, not the row."""
SHOWN: Final = 3
"""Number of roots, workers or models that a message names."""


@dataclass(frozen=True)
class Surroundings:
    """The workers and settings that may explain a run's failures."""

    workers: Sequence[WorkerRecord]
    """Live workers."""
    own: bool
    """Whether the command itself has started them."""
    ship: bool
    model: str | None
    """The model id that jobs ask for."""
    image_folders: Sequence[Path]
    """Folders of the source's files."""


@dataclass(frozen=True)
class FailedRow:
    """An example of a row with a failed question."""

    image: RowImage | None
    """None if the row has no image or several; then the failure says which it means."""
    failure: Failure

    @classmethod
    def of(cls, row: Row, failure: Failure) -> "FailedRow":
        return cls(None if row.more_images else row.image, failure)


def hits_every_row(rows: Sequence[FailedRow]) -> bool:
    """Whether rows that failed with the same code have one cause in the workers or the command.

    An image missing on a web server says nothing about the other images.
    """
    return all(
        row.failure.code in HIT_EVERY_ROW
        and (row.failure.code is not FailureCode.IMAGE_NOT_FOUND or _file(row.image) is not None)
        for row in rows
    )


def remedy(row: FailedRow, around: Surroundings) -> str:
    """What is wrong and what to do, in one or two sentences; else the failure's own message."""
    said = row.failure.message
    match row.failure.code:
        case FailureCode.IMAGE_NOT_ALLOWED:
            return _outside(row, around)
        case FailureCode.IMAGE_NOT_FOUND:
            return _not_found(row, around)
        case FailureCode.IMAGE_UNREADABLE if not around.own:
            return f"{said} Let the user who runs the workers read it{_or_ship(around)}."
        case FailureCode.URL_NOT_ALLOWED:
            return (
                f"{said} Which URLs workers fetch is set where they start: --url-schemes, --url-hosts and "
                "--url-private-networks, or CAPTIONMILL_URL_SCHEMES, CAPTIONMILL_URL_HOSTS and "
                "CAPTIONMILL_URL_PRIVATE_NETWORKS."
            )
        case FailureCode.DOWNLOAD_FAILED:
            return f"{said} Check whether the workers' machines reach that host."
        case FailureCode.WRONG_MODEL:
            have = _named(sorted({one.model for one in around.workers})) or "none"
            asked = f"The jobs ask for the model {around.model}"
            return f"{asked}; live workers have: {have}. Name one with --model."
        case FailureCode.UNSUPPORTED_VERSION:
            return f"{said} Bring this command and the workers to the same release."
        case FailureCode.EXCEEDS_CAPACITY:
            return (
                f"{said} Ask for fewer --num-beams or --num-return-sequences, or start workers with more "
                "CAPTIONMILL_KV_CACHE_BYTES and CAPTIONMILL_MAX_ROWS."
            )
        case FailureCode.QUESTION_TOO_LONG:
            return f"{said} Ask a shorter question, or use a lower --detail."
        case _:
            return said


def _outside(row: FailedRow, around: Surroundings) -> str:
    path = _file(row.image)
    if path is None or _is_special(path):
        return row.failure.message
    real = Path(os.path.realpath(path))
    folder = shown(real.parent)
    name = quoted(path) if real == path else f"{quoted(path)} leads to {shown(real)}, which"
    if around.own:
        read = _named([shown(one) for one in around.image_folders])
        return (
            f"{name} is outside the folders of the source ({read}), and only these are read: name {folder} "
            "as a source, too."
        )
    linked = real != path or not any(path.is_relative_to(one) for one in around.image_folders)
    wanted = [shown(one) for one in ([real.parent] if linked else few_folders(around.image_folders))]
    roots = sorted({root for one in around.workers for root in one.image_roots})
    whose = f" ({_named(roots)})" if roots else ""
    return (
        f"{name} is outside the image roots of the live workers{whose}. Start them with captionmill worker "
        f"{' '.join(f'--image-root {shlex.quote(one)}' for one in wanted)}, or "
        f"CAPTIONMILL_IMAGE_ROOTS={shlex.quote(os.pathsep.join(wanted))}"
        f"{_or_ship(around) if real == path else ''}."
    )


def _not_found(row: FailedRow, around: Surroundings) -> str:
    path = _file(row.image)
    if path is None:
        return row.failure.message
    if not path.exists():
        where = "" if around.own else ", neither here nor for the workers"
        other = other_spelling(path)
        beside = "" if other is None else f" {quoted(other)} is there, and is another name."
        return f"There is no file {quoted(path)}{where}: look at the source, and at --image-root.{beside}"
    workers = _named([one.worker for one in around.workers])
    whose = f" of the live workers ({workers})" if workers else " of the workers"
    return (
        f"{quoted(path)} is here, but not on the machines{whose}. Mount {shown(path.parent)} there under the "
        f"same name{_or_ship(around)}."
    )


def _or_ship(around: Surroundings) -> str:
    return "" if around.ship else ", or send images through the store with --ship"


def _file(image: RowImage | None) -> Path | None:
    return image.to_path() if isinstance(image, ImagePath | ImageMember) else None


def _is_special(path: Path) -> bool:
    """Whether the path exists and is no regular file: a folder, a FIFO, a socket."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _named(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
