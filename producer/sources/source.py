"""The interface of sources, and their options; reads nothing itself."""

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
    """How to read a source. An option without effect for the source is refused."""

    format: Format | None = None
    """None recognises the form."""
    sniff: bool = False
    """For a folder of images: also take files that are images by their first bytes alone."""
    recursive: bool = False
    """For a folder of images: also read subfolders."""
    image_column: str | None = None
    """None takes `image`, or the only column with a usual name; for shards it is the image's extension."""
    question_column: str | None = None
    """None takes `question`."""
    id_column: str | None = None
    """None takes `id` or `question_id`."""
    image_root: str | None = None
    """Folder or URL of relative image names; None is the source's own folder."""
    split: str | None = None
    """Split of a data set that has several."""
    parameters: tuple[str, ...] | None = None
    """Columns with generation parameters; None takes those with the parameters' names that fit."""
    text_only: bool = False
    """Whether rows without an image are asked without one."""
    shard_ids: bool = False
    """For shards with the same keys: ids are SHARD/KEY."""
    delimiter: str | None = None
    """Delimiter of CSV and TSV; None recognises it."""
    quoting: Quoting | None = None
    """Whether cells of CSV and TSV may be quoted; None quotes in CSV alone."""
    encoding: str | None = None
    """Encoding of text; None is UTF-8, or UTF-16 or UTF-32 by their byte order marks."""
    unread: tuple[str, ...] = ()
    """Metadata files that the run itself writes."""
    own_questions: bool = True
    """False treats the rows' questions as ordinary columns, for the templates of the run's questions."""


class Source(Protocol):
    """A data set as rows."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the columns of all rows; None if rows may differ."""

    @property
    def skipped(self) -> Skipped:
        """What the last complete pass of `rows` left out."""

    @property
    def images_folder(self) -> Path | None:
        """The local folder that all images are in or below, as files; else None."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on how the source is read, where that may be unexpected; complete after the last row."""

    def rows(self, bad: BadRows | None = None, /) -> Iterator[Row]:
        """All rows in order, from the beginning at each call.

        Rows that cannot be asked go to `bad`; None raises SourceError at the first of them. An error after
        which nothing can be read, as in a torn file, always raises SourceError.
        """

    def read(self, place: int) -> bytes:
        """The bytes of an Embedded image of this source; fast for ascending places. For one thread.

        Raises SourceError if the source has changed since its row was read.
        """


class PlainSource:
    """The members of a Source without columns, notes and embedded images."""

    columns: tuple[str, ...] | None = ()
    skipped = Skipped()
    images_folder: Path | None = None
    notes: tuple[str, ...] = ()

    def read(self, place: int) -> bytes:
        raise AssertionError(f"no image is embedded at {place}")
