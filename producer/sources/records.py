"""Makes rows from a file of records; knows none of the files' forms."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from producer.rows import Row
from producer.sources.bad_rows import BadRows
from producer.sources.fields import (
    NO_COLUMN,
    Roles,
    carried_columns,
    find_roles,
    image_text,
    may_lack_images,
    named_id,
    row_of,
)
from producer.sources.files import reading
from producer.sources.images import content_of, holds_bytes
from producer.sources.known_forms import flat
from producer.sources.refusal import SourceError, listed, naming, shown
from producer.sources.skipped import Skipped
from producer.sources.source import SourceOptions


class Record(NamedTuple):
    """Named values and their place in the file."""

    number: int
    """Number of the line or entry, from 1."""
    place: int
    """Place for `at`."""
    fields: Mapping[str, Any]


class BadRecord(NamedTuple):
    """A record that cannot be read, although later ones can."""

    number: int
    reason: str


class Records(Protocol):
    """A file of records."""

    @property
    def unit(self) -> str:
        """What its numbers count, such as "line"."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the fields of all records; None if they may differ."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on how the file is read."""

    def records(self) -> Iterator[Record | BadRecord | SourceError]:
        """All records; a SourceError at the end if nothing more can be read."""

    def at(self, place: int) -> Mapping[str, Any]:
        """The fields of the record at `place`. Raises SourceError."""


class RecordSource:
    """A source that makes a row of each record."""

    skipped = Skipped()
    images_folder: Path | None = None

    def __init__(self, name: str, root: str, records: Records, options: SourceOptions) -> None:
        """`name` is the file's, `root` the folder of relative image names."""
        self._name = name
        self._root = root
        self._records = records
        self._options = options
        self._roles: Roles | None = None
        if records.columns is not None:
            self._roles = self._table_roles(records.columns)

    @property
    def columns(self) -> tuple[str, ...] | None:
        if self._records.columns is None or self._roles is None:
            return None
        return carried_columns(self._records.columns, self._roles, self._options)

    @property
    def notes(self) -> tuple[str, ...]:
        return self._records.notes

    def rows(self, bad: BadRows | None = None, /) -> Iterator[Row]:
        empty = True
        bad = bad or BadRows()
        name = shown(self._name)
        with reading(self._name):
            for record in self._records.records():
                if isinstance(record, SourceError):
                    raise SourceError(f"{shown(self._name)}, {record}") from None
                empty = False
                number = f"{self._records.unit} {record.number}"
                where = f"{name}, {number}"
                if isinstance(record, BadRecord):
                    yield from bad.instead(number, where, record.reason)
                    continue
                record = record._replace(fields=flat(record.fields))
                try:
                    row = self._row(record, where)
                except SourceError as error:
                    yield from bad.instead(self._id(record), where, str(error))
                else:
                    yield row
        if empty:
            units = "entries" if self._records.unit == "entry" else f"{self._records.unit}s"
            raise SourceError(f"{shown(self._name)} has no {units}.")

    def read(self, place: int) -> bytes:
        with reading(self._name):
            try:
                text = self._image_text(flat(self._records.at(place)))
                if text is not None and holds_bytes(text):
                    return content_of(text)
            except SourceError:
                pass
        raise SourceError(f"{shown(self._name)} was changed while it was in use.")

    def _row(self, record: Record, where: str) -> Row:
        return row_of(
            record.fields,
            self._roles_of(record.fields),
            self._options,
            number=str(record.number),
            root=self._root,
            place=record.place,
            where=where,
        )

    def _id(self, record: Record) -> str:
        """The id of a record that is no row."""
        return named_id(record.fields, self._options) or str(record.number)

    def _image_text(self, fields: Mapping[str, Any]) -> str | None:
        """The text that names a record's only image."""
        return image_text(fields, self._roles_of(fields), self._options)

    def _roles_of(self, fields: Mapping[str, Any]) -> Roles:
        """A record's columns for image, question and id; in a table the same for all records."""
        return self._roles or find_roles(tuple(fields), self._options)

    def _table_roles(self, columns: tuple[str, ...]) -> Roles:
        with naming(shown(self._name)):
            roles = find_roles(columns, self._options)
        if roles.image is None and not may_lack_images(columns, self._options):
            raise SourceError(f"{shown(self._name)}: {NO_COLUMN.format(listed(columns))}.")
        return roles
