"""What a source is to the rest of the producer, and what may be asked of one; reads nothing itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from producer.rows import Row
from producer.sources.bad_rows import BadRows
from producer.sources.skipped import Skipped

Format = Literal[
    "image",
    "folder",
    "imagefolder",
    "zip",
    "list",
    "csv",
    "tsv",
    "jsonl",
    "json",
    "openai",
    "parquet",
    "webdataset",
    "datasets",
]
Quoting = Literal["quotes", "none"]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How to read a source. An option that the source has no use for is refused."""

    format: Format | None = None
    """None recognises the source by its look."""
    sniff: bool = False
    """Of a folder of images: files too whose first bytes alone say that they are images."""
    recursive: bool = False
    """Of a folder of images: the folders below too."""
    image_column: str | None = None
    """None takes `image`, or the one column of a usual name for it; of a shard, the image's extension."""
    question_column: str | None = None
    """None takes `question`."""
    id_column: str | None = None
    """None takes `id` or `question_id`."""
    image_root: str | None = None
    """Folder or URL that relative image names begin at; None is the source's own folder."""
    split: str | None = None
    """Of a data set that has several."""
    parameters: tuple[str, ...] | None = None
    """Columns that decide how their rows are answered; None takes those of the usual names that fit."""
    text_only: bool = False
    """Whether rows without an image are asked without one."""
    shard_ids: bool = False
    """Of shards: ids are SHARD/KEY, for shards that have the same keys."""
    delimiter: str | None = None
    """Of CSV and TSV; None recognises it."""
    quoting: Quoting | None = None
    """Whether cells of CSV and TSV may be quoted; None quotes in CSV alone."""
    encoding: str | None = None
    """Of text; None is UTF-8, or UTF-16 or UTF-32 by their marks."""
    unread: tuple[str, ...] = ()
    """Metadata files that the run writes itself."""
    own_questions: bool = True
    """False leaves what the rows ask to the columns, for the templates of the run's own questions."""


class Source(Protocol):
    """A data set as rows."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names that every row's `columns` has; None where rows may differ."""

    @property
    def skipped(self) -> Skipped:
        """What `rows` left out the last time that it came to its end."""

    @property
    def images_folder(self) -> Path | None:
        """The local folder that all images are files in or below; None where they are not."""

    @property
    def notes(self) -> tuple[str, ...]:
        """How it is read, in sentences, where a person may expect otherwise; whole after the last row."""

    def rows(self, bad: BadRows | None = None, /) -> Iterator[Row]:
        """Every row in order, one at a time, from the beginning at each call.

        What cannot be asked goes to `bad`, with the file and its line or row; None raises SourceError at the
        first. Where nothing can be read behind it, as in a torn file, that is a SourceError anyway.
        """

    def read(self, place: int) -> bytes:
        """The bytes of an Embedded image of this source; quick where places ascend. For one thread.

        Raises SourceError if the source is not what it was when its row was read.
        """


class PlainSource:
    """What a Source says that has no columns, no notes and no images within it."""

    columns: tuple[str, ...] | None = ()
    skipped = Skipped()
    images_folder: Path | None = None
    notes: tuple[str, ...] = ()

    def read(self, place: int) -> bytes:
        raise AssertionError(f"no image is embedded at {place}")
