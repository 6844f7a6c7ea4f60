"""Makes a row of named values, whichever file they come from; opens nothing."""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from producer.rows import Row, RowImage
from producer.sources.conversation import QUESTION_COLUMNS, questions_of
from producer.sources.files import IMAGE_SUFFIXES
from producer.sources.images import is_data_url, named_image
from producer.sources.parameters import PARAMETER_COLUMNS, detail_of, parameters_of
from producer.sources.refusal import SourceError, listed
from producer.sources.source import SourceOptions

IMAGE_COLUMNS: Final = (
    "file_name", "filename", "file", "image_path", "image_file", "image_url", "img", "img_path", "path",
    "filepath", "file_path", "url",
)  # fmt: skip
"""Where an image's name is looked for if there is no column `image`."""
ID_COLUMNS: Final = ("id", "question_id")


@dataclass(frozen=True)
class Roles:
    """Which column is what."""

    image: str | None
    question: str | None
    id: str | None


def find_roles(columns: Sequence[str], options: SourceOptions, *, images: bool = True) -> Roles:
    """The columns that `options` name, or else those of the usual names, in any case.

    `images` False looks for no image. Raises SourceError for a named column that is not there, and where two
    columns could be meant.
    """
    for asked in (options.image_column if images else None, options.question_column, options.id_column):
        if asked is not None and asked not in columns:
            raise SourceError(f'there is no column "{asked}"; there are {listed(columns) or "none"}')
    image = options.image_column if images else None
    if image is None and images:
        image = _one_of(("image",), columns) or _one_of(IMAGE_COLUMNS, columns, option="--image-column")
    row_id = options.id_column
    for name in ID_COLUMNS:
        row_id = row_id or _one_of((name,), columns)
    question = options.question_column
    if question is None:
        question = _one_of(("question",), columns)
        # LLaVA's evaluation files; elsewhere `text` is a caption more often than a question.
        if question is None and "question_id" in columns and "text" in columns:
            question = "text"
    return Roles(image, question if options.own_questions else None, row_id)


def _one_of(names: Collection[str], columns: Sequence[str], option: str | None = None) -> str | None:
    found = [column for column in columns if column in names]
    found = found or [column for column in columns if column.lower() in names]
    if len(found) > 1:
        choose = f"; choose with {option}" if option else ""
        raise SourceError(f"{listed(found)} could each be meant{choose} (columns: {listed(columns)})")
    return found[0] if found else None


def carried_columns(columns: Sequence[str], roles: Roles, options: SourceOptions) -> tuple[str, ...]:
    """The columns that rows carry on: those without a role."""
    taken = {roles.image, roles.question, roles.id, *PARAMETER_COLUMNS}
    if options.own_questions:
        taken.update(QUESTION_COLUMNS)
    return tuple(column for column in columns if column not in taken)


def row_of(
    record: Mapping[str, Any],
    roles: Roles,
    options: SourceOptions,
    *,
    number: str,
    root: str,
    place: int,
    image: RowImage | None = None,
    name: str | None = None,
    where: str = "",
) -> Row:
    """A row of `record`; `image` with its `name` if the source has it elsewhere, else the record names it.

    `number` is the id of a row that has none, `root` where relative names begin, `place` where an image
    within the record can be found again. Raises SourceError for what is no row.
    """
    carried = carried_columns(tuple(record), roles, options)
    questions, placed = questions_of(record, roles.question) if options.own_questions else ((), None)
    if image is None:
        text = _image_name(record, roles.image, placed)
        if text is not None:
            image = named_image(text, root, place)
            name = None if is_data_url(text) else text
    for question in questions:
        if question.uses_image(with_image=False) and image is None:
            raise SourceError('the conversation places an image, but there is no "image"')
        if image is not None and not question.uses_image(with_image=True):
            raise SourceError('the conversation places no image; its first user turn needs {"type": "image"}')
    if image is None:
        _require_no_image({column: record[column] for column in carried}, bool(questions))
    return Row(
        id=_id(record, roles.id, number),
        has_own_id=roles.id is not None,
        name=name,
        image=image,
        questions=questions,
        parameters=parameters_of(record),
        detail=detail_of(record),
        columns={column: record[column] for column in carried},
        where=where,
    )


def image_text(record: Mapping[str, Any], roles: Roles, options: SourceOptions) -> str | None:
    """How the record names its image; for a second look at a record that `row_of` took."""
    placed = questions_of(record, roles.question)[1] if options.own_questions else None
    return _image_name(record, roles.image, placed)


def _image_name(record: Mapping[str, Any], column: str | None, placed: str | None) -> str | None:
    value = record.get(column) if column is not None else None
    if value is not None and not (isinstance(value, str) and value):
        raise SourceError(f'"{column}" must be a path or a URL')
    if placed is not None and value not in (None, placed):
        raise SourceError('"image" and the image in "messages" differ')
    return placed or value


def _require_no_image(columns: Mapping[str, Any], asks: bool) -> None:
    """Refuse a row whose image has only not been found: asked without it, a model makes something up."""
    for column, value in columns.items():
        if isinstance(value, str) and os.path.splitext(value)[1].lower() in IMAGE_SUFFIXES:
            raise SourceError(f'there is no image, but "{column}" looks like one; choose with --image-column')
    if not asks:
        raise SourceError(
            f'neither an image nor "question", "questions" or "messages" '
            f"(other columns: {listed(tuple(columns)) or 'none'}); --image-column names the image's column"
        )


def _id(record: Mapping[str, Any], column: str | None, number: str) -> str:
    if column is None:
        return number
    value = record[column]
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise SourceError(f'"{column}" must be a string or a number')
    return str(value)


def named_id(record: Mapping[str, Any], options: SourceOptions) -> str | None:
    """The id that a record gives itself, though it may be no row; None where it has none."""
    columns = ID_COLUMNS if options.id_column is None else (options.id_column,)
    found = (record.get(column) for column in columns)
    return next((str(one) for one in found if isinstance(one, str | int) and one != ""), None)


def json_ready(value: Any) -> Any:
    """A value as JSON can hold it: times in ISO 8601, decimals as text, no number as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): json_ready(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(one) for one in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)
