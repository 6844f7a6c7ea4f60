"""Makes a row from named values, for all kinds of files; opens nothing."""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from contract.failure import FailureCode, Refusal
from contract.quoting import quoted
from producer.rows import NamedImage, Row, RowImage
from producer.sources.conversation import QUESTION_COLUMNS, RowQuestions, row_questions
from producer.sources.images import holds_bytes, named_images
from producer.sources.parameters import row_parameters
from producer.sources.pictures import TEXT_ONLY, names_in, no_image, refuse_missing
from producer.sources.refusal import SourceError, listed
from producer.sources.source import SourceOptions

IMAGE_COLUMNS: Final = (
    "file_name", "filename", "file", "image_path", "image_file", "image_url", "img", "img_path", "path",
    "filepath", "file_path", "url",
)  # fmt: skip
"""Columns for an image's name, if there is no column `image` or `images`."""
ID_COLUMNS: Final = ("id", "question_id")
NO_COLUMN: Final = (
    "no column names an image (columns: {}); name it with --image-column, or with --text-only ask without one"
)


@dataclass(frozen=True)
class Roles:
    """The columns of image, question and id; None if there is none."""

    image: str | None
    question: str | None
    id: str | None


def find_roles(columns: Sequence[str], options: SourceOptions, *, images: bool = True) -> Roles:
    """The columns that `options` name, or else those with the usual names, in any case.

    `images` False looks for no image. Raises SourceError if a named column is missing, or two could be meant.
    """
    for asked in (options.image_column if images else None, options.question_column, options.id_column):
        if asked is not None and asked not in columns:
            raise SourceError(f'there is no column "{quoted(asked)}"; there are {listed(columns) or "none"}')
    image = options.image_column if images else None
    if image is None and images:
        image = _one_of(("image",), columns) or _one_of(("images",), columns)
        image = image or _one_of(IMAGE_COLUMNS, columns, option="--image-column")
    row_id = options.id_column
    for name in ID_COLUMNS:
        row_id = row_id or _one_of((name,), columns)
    question = options.question_column
    if question is None:
        question = _one_of(("question",), columns)
        # As in LLaVA's evaluation files; elsewhere `text` is mostly a caption.
        if question is None and "question_id" in columns and "text" in columns:
            question = "text"
    return Roles(image, question if options.own_questions else None, row_id)


def may_lack_images(columns: Sequence[str], options: SourceOptions) -> bool:
    """Whether a table needs no image column: its turns may name images, or none are needed."""
    turns = ("messages", "conversations")
    return options.text_only or (options.own_questions and any(name in columns for name in turns))


def _one_of(names: Collection[str], columns: Sequence[str], option: str | None = None) -> str | None:
    found = [column for column in columns if column in names]
    found = found or [column for column in columns if column.lower() in names]
    if len(found) > 1:
        choose = f"; choose with {option}" if option else ""
        raise SourceError(f"{listed(found)} could each be meant{choose} (columns: {listed(columns)})")
    return found[0] if found else None


def carried_columns(columns: Sequence[str], roles: Roles, options: SourceOptions) -> tuple[str, ...]:
    """Columns that sinks carry over: those without a role, also if they are parameters."""
    taken = {roles.image, roles.question, roles.id}
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
    """A row of `record`. `image` and `name` are given if the source has the image elsewhere.

    `number` is the id of a record without one, `root` the folder of relative names, `place` that of an image
    within the record. The row has a refusal if its images are missing, invalid, or do not fit its questions.
    Raises SourceError if the record is no row.
    """
    carried = carried_columns(tuple(record), roles, options)
    row = Row(
        id=_id(record, roles.id, number),
        has_own_id=roles.id is not None,
        name=name,
        image=image,
        columns={column: record[column] for column in carried},
        where=where,
        text_only=options.text_only,
    )
    more_images: tuple[NamedImage, ...] = ()
    try:
        found = row_questions(record, roles.question) if options.own_questions else RowQuestions()
        if image is None:
            texts = _names(record, roles.image, found)
            if not texts:
                _refuse_without(record, roles, options, found)
            else:
                image, more_images = _named(texts, root, place)
                name = None if holds_bytes(texts[0]) else texts[0]
        questions = found.questions(0 if image is None else 1 + len(more_images))
        detail = found.detail
    except Refusal as refusal:
        return replace(row, image=None, refusal=refusal.failure)
    given = row_parameters(record, options.parameters)
    return replace(
        row,
        name=name,
        image=image,
        more_images=more_images,
        questions=questions,
        parameters=given.parameters,
        offered=given.offered,
        detail=given.detail if detail is None else detail,
        ignored=tuple(sorted(found.ignored)),
    )


def image_text(record: Mapping[str, Any], roles: Roles, options: SourceOptions) -> str | None:
    """The text that names the record's only image; for a record that `row_of` has accepted."""
    try:
        found = row_questions(record, roles.question) if options.own_questions else RowQuestions()
        names = _names(record, roles.image, found)
    except Refusal:
        return None
    return names[0] if len(names) == 1 else None


def _names(record: Mapping[str, Any], column: str | None, found: RowQuestions) -> list[str]:
    """Names of the record's images, from a column and from its turns."""
    inside = [] if column is None else names_in(record.get(column))
    if column == "image" and not inside:
        inside = names_in(record.get("images"))
    return found.names(inside)


def _named(texts: Sequence[str], root: str, place: int) -> tuple[RowImage | None, tuple[NamedImage, ...]]:
    """As named_images, but raises Refusal for an invalid name."""
    try:
        return named_images(texts, root, place)
    except SourceError as error:
        raise Refusal(FailureCode.INVALID_JOB, f"{str(error).removesuffix('.')}.") from None


def _refuse_without(
    record: Mapping[str, Any], roles: Roles, options: SourceOptions, found: RowQuestions
) -> None:
    """Raises Refusal if the row may not be asked without an image."""
    if options.text_only:
        return
    asked = (roles.question, *(QUESTION_COLUMNS if options.own_questions else ()))
    refuse_missing(record, roles.image, [one for one in asked if one is not None])
    if not found.asked:
        raise no_image(
            'nor does it bring a "question", "questions", "messages" or "conversations" (columns: '
            f"{listed(record) or 'none'}); --image-column names the image's, and {TEXT_ONLY}"
        )


def _id(record: Mapping[str, Any], column: str | None, number: str) -> str:
    """The record's id, whole numbers without a point; `number` if it has none. Raises SourceError."""
    value = None if column is None else record[column]
    if value is None or value == "":
        return number
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise SourceError(f'"{quoted(column or "")}" must be a text or a whole number')
    try:
        os.fsencode(str(value))
    except UnicodeEncodeError:
        raise SourceError(
            f'"{quoted(column or "")}" holds half of a character: {quoted(str(value))}'
        ) from None
    return str(value)


def named_id(record: Mapping[str, Any], options: SourceOptions) -> str | None:
    """The id in a record that may be no row; None if it has none."""
    columns = ID_COLUMNS if options.id_column is None else (options.id_column,)
    found = (record.get(column) for column in columns)
    return next((str(one) for one in found if isinstance(one, str | int) and one != ""), None)


def json_ready(value: Any) -> Any:
    """A value for JSON: times in ISO 8601, decimals as text, NaN and infinity as null."""
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
