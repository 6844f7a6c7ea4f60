"""Makes a row of named values, whichever file they come from; opens nothing."""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from contract.failure import Refusal
from contract.quoting import quoted
from producer.rows import NamedImage, Row, RowImage
from producer.sources.conversation import QUESTION_COLUMNS, Said, said
from producer.sources.images import holds_bytes, named_images
from producer.sources.parameters import brought
from producer.sources.pictures import as_refusal, names_in, refuse_missing, refuse_unasked
from producer.sources.refusal import SourceError, listed
from producer.sources.source import SourceOptions

IMAGE_COLUMNS: Final = (
    "file_name", "filename", "file", "image_path", "image_file", "image_url", "img", "img_path", "path",
    "filepath", "file_path", "url",
)  # fmt: skip
"""Where an image's name is looked for if there is no column `image`, nor `images`."""
ID_COLUMNS: Final = ("id", "question_id")
NO_COLUMN: Final = (
    "no column names an image (columns: {}); name it with --image-column, or with --text-only ask without one"
)


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
        # LLaVA's evaluation files; elsewhere `text` is a caption more often than a question.
        if question is None and "question_id" in columns and "text" in columns:
            question = "text"
    return Roles(image, question if options.own_questions else None, row_id)


def may_lack_images(columns: Sequence[str], options: SourceOptions) -> bool:
    """Whether a table need have no column of an image: its turns may name them, or nobody wants any."""
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
    """The columns that rows carry on: those without a role; those that decide something, too."""
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
    """A row of `record`; `image` with its `name` if the source has it elsewhere, else the record names all.

    `number` is the id of a row that has none, `root` where relative names begin, `place` where an image
    within the record can be found again. A row whose images are not found, are none, or are not as many as it
    places has a refusal. Raises SourceError for what is no row.
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
        found = said(record, roles.question) if options.own_questions else Said()
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
    given = brought(record, options.parameters)
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
    """How the record names its only image; for a second look at a record that `row_of` took."""
    try:
        found = said(record, roles.question) if options.own_questions else Said()
        names = _names(record, roles.image, found)
    except Refusal:
        return None
    return names[0] if len(names) == 1 else None


def _names(record: Mapping[str, Any], column: str | None, found: Said) -> list[str]:
    """The images that the record names, in a column and in its turns."""
    inside = [] if column is None else names_in(record.get(column))
    if column == "image" and not inside:
        inside = names_in(record.get("images"))
    return found.names(inside)


def _named(texts: Sequence[str], root: str, place: int) -> tuple[RowImage | None, tuple[NamedImage, ...]]:
    try:
        return named_images(texts, root, place)
    except SourceError as error:
        raise as_refusal(error) from None


def _refuse_without(record: Mapping[str, Any], roles: Roles, options: SourceOptions, found: Said) -> None:
    """Raise Refusal where a row without an image is not to be asked."""
    if options.text_only:
        return
    asked = (roles.question, *(QUESTION_COLUMNS if options.own_questions else ()))
    refuse_missing(record, roles.image, [one for one in asked if one is not None])
    if not found.asked:
        refuse_unasked(record)


def _id(record: Mapping[str, Any], column: str | None, number: str) -> str:
    """As the record has it, a whole number without a point; its number where it is null."""
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
