"""Makes rows of Arrow tables, from Parquet or saved data sets; opens no file."""

import itertools
from collections.abc import Iterator
from typing import Any, Final

from contract.failure import Failure, FailureCode
from contract.quoting import quoted
from producer.rows import Embedded, Row
from producer.sources.bad_rows import BadRows
from producer.sources.fields import (
    NO_COLUMN,
    Roles,
    carried_columns,
    find_roles,
    json_ready,
    may_lack_images,
    named_id,
    row_of,
)
from producer.sources.files import IMAGE_SUFFIXES
from producer.sources.images import content_of, holds_bytes
from producer.sources.lines import LINE_MAX_BYTES, TOO_LONG
from producer.sources.refusal import SourceError, library, listed
from producer.sources.source import SourceOptions

_WITHIN: Final = "data:;base64,AA=="
BYTES_COLUMNS: Final = frozenset(
    {
        *(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES),
        *("img", "bytes", "image_bytes", "img_bytes", "image_data", "image_content", "content"),
    }
)
"""Usual names of columns whose bytes are images, as img2dataset and others write them beside a URL."""


class ArrowRows:
    """Reads rows by the columns of a schema.

    An image is a text (path or URL), bytes, or `datasets`' struct of bytes and path. Other columns with bytes
    are not carried.
    """

    def __init__(
        self, schema: Any, options: SourceOptions, root: str, labels: dict[str, list[str]] | None = None
    ) -> None:
        """`labels`: column → the names that its whole numbers stand for. Raises SourceError."""
        self._types = library("pyarrow", "parquet", "An Arrow table").types
        self._options = options
        self._root = root
        self._labels = labels or {}
        kinds = {schema_field.name: schema_field.type for schema_field in schema}
        readable = [name for name in kinds if not self._has_bytes(kinds[name])]
        for asked in (options.question_column, options.id_column):
            if asked in kinds and asked not in readable:
                raise SourceError(f'"{asked}" holds bytes and no text')
        self.image: str | None
        inside = None if options.image_column or "image" in kinds else self._embedding(kinds)
        if inside is not None:
            self.roles = find_roles(readable, options, images=False)
            self.image = inside
        else:
            images = [name for name in kinds if name in readable or self._is_image(kinds[name])]
            self.roles = find_roles(images, options)
            if self.roles.image is None and not may_lack_images(tuple(kinds), options):
                raise SourceError(NO_COLUMN.format(listed(list(kinds))))
            self.image = self.roles.image
        self._image_type = None if self.image is None else kinds[self.image]
        if not (self.image is None or self._is_image(self._image_type) or self._is_name(self._image_type)):
            raise SourceError(f'"{self.image}" holds no image: its type is {self._image_type}')
        self.other = [name for name in readable if name != self.image]
        """Columns that rows are read from, without the image's."""
        self.columns = carried_columns(self.other, self.roles, options)

    @property
    def leaves(self) -> tuple[str | None, str | None]:
        """Leaf columns of the images' bytes and paths, in Parquet's notation; None if there is none."""
        if self._image_type is None or self._is_list(self._image_type):
            return None, None
        if self._is_text(self._image_type):
            return None, self.image
        if self._is_bytes(self._image_type):
            return self.image, None
        if not self._is_image(self._image_type):
            return None, None
        named = [self._image_type.field(number).name for number in range(self._image_type.num_fields)]
        return f"{self.image}.bytes", f"{self.image}.path" if "path" in named else None

    def rows(
        self, table: Any, first: int, name: str, bad: BadRows, *, embedded: bool = False
    ) -> Iterator[Row]:
        """Rows of a table with the columns `other` and the image; the first row has the position `first`.

        If all images are known to be `embedded`, the table need not have their bytes. `bad` gets rows that
        cannot be asked, with their number, from 1, in the source `name`.
        """
        records = table.select(self.other).to_pylist() if self.other else [{}] * table.num_rows
        there = self.image is not None and self.image in table.schema.names
        images = table.column(self.image).to_pylist() if there else [None] * table.num_rows
        for position, record, value in zip(itertools.count(first), records, images, strict=False):
            where = f"{name}, row {position + 1}"
            try:
                _refuse_long(record)
                row = self._row(self._cleaned(record), value, position, where, embedded=embedded)
            except SourceError as error:
                row_id = named_id(record, self._options) or str(position + 1)
                yield from bad.instead(row_id, where, str(error))
            else:
                yield row

    def content(self, value: Any) -> bytes | None:
        """The bytes in an image's cell; None if it has none."""
        value = _single(value)
        if isinstance(value, dict):
            value = value.get("bytes")
        if isinstance(value, str) and holds_bytes(value):
            return content_of(value)
        return value if isinstance(value, bytes) else None

    def _row(self, record: dict[str, Any], value: Any, position: int, where: str, *, embedded: bool) -> Row:
        image = Embedded(place=position) if embedded or self._inside(value) else None
        path = _path(value)
        if image is None and not path and _was_not_downloaded(record):
            return self._not_downloaded(record, position, where)
        if image is None and self.image is not None:
            record = {**record, self.image: _named_only(value)}
        return row_of(
            record,
            Roles(self.image, self.roles.question, self.roles.id),
            self._options,
            number=str(position + 1),
            root=self._root,
            place=position,
            image=image,
            name=path or None,
            where=where,
        )

    def _not_downloaded(self, record: dict[str, Any], position: int, where: str) -> Row:
        why = ": ".join(str(record[name]) for name in ("status", "error_message") if record.get(name))
        message = f"img2dataset has not downloaded {quoted(str(record['url']))}: {why}."
        return Row(
            id=named_id(record, self._options) or str(position + 1),
            name=None,
            image=None,
            columns={name: record[name] for name in self.columns},
            where=where,
            refusal=Failure(code=FailureCode.IMAGE_NOT_FOUND, message=message),
        )

    def _inside(self, value: Any) -> bool:
        """Whether the cell has an image as bytes, not as a text."""
        value = _single(value)
        return isinstance(value.get("bytes") if isinstance(value, dict) else value, bytes)

    def _cleaned(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record, JSON-ready, with label names, and with turns without empty fields."""
        cleaned = {name: self._label(name, json_ready(value)) for name, value in record.items()}
        for name in ("messages", "conversations"):
            turns = cleaned.get(name)
            if self._options.own_questions and isinstance(turns, list):
                cleaned[name] = [_without_nulls(turn) for turn in turns]
        return cleaned

    def _label(self, name: str, value: Any) -> Any:
        labels = self._labels.get(name)
        return labels[value] if labels and isinstance(value, int) and 0 <= value < len(labels) else value

    def _embedding(self, kinds: dict[str, Any]) -> str | None:
        """The column that has the images as bytes, if it is not called `image`; None if images have names.

        A column of mere bytes counts if it has a usual name, or if no other column names the images.
        """
        images = [name for name in kinds if self._is_image(kinds[name])]
        structs = [name for name in images if self._types.is_struct(kinds[name])]
        structs = structs or [name for name in images if name.lower() in BYTES_COLUMNS]
        if (
            not structs
            and find_roles([n for n in kinds if n not in images], SourceOptions()).image is not None
        ):
            return None
        found = structs or images
        if len(found) > 1:
            raise SourceError(f"{listed(found)} could each be the image; choose with --image-column")
        return found[0] if found else None

    def _is_text(self, kind: Any) -> bool:
        if self._types.is_dictionary(kind):
            kind = kind.value_type
        return self._is_any(kind, "is_string", "is_large_string", "is_string_view")

    def _is_bytes(self, kind: Any) -> bool:
        tests = ("is_binary", "is_large_binary", "is_fixed_size_binary", "is_binary_view")
        return self._is_any(kind, *tests)

    def _is_image(self, kind: Any) -> bool:
        """Whether values of a type are images as bytes, or lists of them."""
        if self._is_list(kind):
            return self._is_image(kind.value_type)
        if self._types.is_struct(kind):
            return (
                {"bytes"}
                <= {kind.field(number).name for number in range(kind.num_fields)}
                <= {"bytes", "path"}
            )
        return self._is_bytes(kind)

    def _is_name(self, kind: Any) -> bool:
        """Whether values of a type can name images: texts, objects of texts, lists of them."""
        if self._is_list(kind):
            return self._is_name(kind.value_type)
        if self._types.is_struct(kind):
            return any(self._is_name(kind.field(number).type) for number in range(kind.num_fields))
        return self._is_text(kind) or self._types.is_null(kind)

    def _is_list(self, kind: Any) -> bool:
        return self._is_any(kind, "is_list", "is_large_list", "is_fixed_size_list")

    def _is_any(self, kind: Any, *tests: str) -> bool:
        """Whether one of pyarrow's tests of these names holds for a type."""
        return any(getattr(self._types, test)(kind) for test in tests)

    def _has_bytes(self, kind: Any) -> bool:
        if self._is_bytes(kind):
            return True
        return any(self._has_bytes(kind.field(number).type) for number in range(kind.num_fields))


def _was_not_downloaded(record: dict[str, Any]) -> bool:
    """Whether it is a row of img2dataset whose download failed."""
    return {"url", "status", "error_message"} <= record.keys() and record["status"] != "success"


def _refuse_long(record: dict[str, Any]) -> None:
    for name, value in record.items():
        if isinstance(value, str) and len(value) > LINE_MAX_BYTES:
            raise SourceError(f'"{name}" {TOO_LONG}')


def _single(value: Any) -> Any:
    """A list's only value, None if it has none or several; other values unchanged."""
    if not isinstance(value, list):
        return value
    there = [one for one in value if one is not None]
    return _single(there[0]) if len(there) == 1 else None


def _path(value: Any) -> str | None:
    """The image's name in a cell; None if it has none."""
    value = _single(value)
    name = value.get("path") if isinstance(value, dict) else value
    return name if isinstance(name, str) and not holds_bytes(name) else None


def _named_only(value: Any) -> Any:
    """A cell without bytes: a short data: URL takes the place of each image within it."""
    if isinstance(value, list):
        return [_named_only(one) for one in value]
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return _WITHIN
    return _WITHIN if isinstance(value, bytes) else value


def _without_nulls(value: Any) -> Any:
    """The value without nulls in objects: Arrow gives each struct the fields of all."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value
