"""Rows of a folder of images or of a JSONL manifest; knows nothing of runs, queues or generation."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from contract.job import Question

IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
)
MANIFEST_SUFFIXES: Final = frozenset({".jsonl", ".ndjson"})
MANIFEST_KEYS: Final = ("image", "question", "questions", "messages", "choices", "id")
QUESTION_KEYS: Final = ("id", "question", "choices")


class SourceError(ValueError):
    """The source cannot be submitted as it is; the message says where and why."""


@dataclass(frozen=True)
class Row:
    """One image and its questions."""

    id: str
    image: Path | None
    questions: tuple[Question, ...]


def open_source(
    source: Path, questions: Sequence[str], *, recursive: bool, choices: Sequence[str] | None = None
) -> Iterator[Row]:
    """The rows of a folder (one per image file, in order of name) or of a manifest (one per line).

    `questions`, with `choices` for each, are asked of every image of a folder, and of manifest lines that
    bring none. Raises SourceError for the arguments, and the iterator at the first row that is not valid.
    """
    if choices and not questions:
        raise SourceError("--choice is for answers to --question; a manifest names its own.")
    asked = tuple(_question(f"q{number}", text, choices) for number, text in enumerate(questions, start=1))
    if source.is_dir():
        if not asked:
            raise SourceError("A folder needs at least one --question.")
        return _folder_rows(source, asked, recursive=recursive)
    if not source.exists():
        raise SourceError(f"There is no folder or manifest {shown(source)}.")
    if source.suffix.lower() not in MANIFEST_SUFFIXES:
        raise SourceError(f"{shown(source)} is neither a folder nor a manifest (.jsonl).")
    if recursive:
        raise SourceError("--recursive is for folders; a manifest names its images.")
    return _manifest_rows(source, asked)


def shown(name: str | os.PathLike[str]) -> str:
    """A file name for a sentence: bytes that are not UTF-8 are written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _folder_rows(folder: Path, questions: tuple[Question, ...], *, recursive: bool) -> Iterator[Row]:
    root = folder.resolve()
    empty = True
    for path in _image_files(root, recursive=recursive):
        empty = False
        yield Row(id=path.relative_to(root).as_posix(), image=path, questions=questions)
    if empty:
        raise SourceError(
            f"There are no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in {shown(folder)}"
            + ("." if recursive else "; --recursive also looks into its folders.")
        )


def _image_files(folder: Path, *, recursive: bool) -> Iterator[Path]:
    """Image files by name, then those of the folders below, without hidden names and links to folders."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"{shown(folder)} cannot be listed: {error.strerror}.") from None
    visible.sort(key=lambda entry: os.fsencode(entry.name))
    for entry in visible:
        if not entry.is_dir() and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
            yield folder / entry.name
    if recursive:
        for entry in visible:
            if entry.is_dir(follow_symlinks=False):
                yield from _image_files(folder / entry.name, recursive=True)


def _manifest_rows(manifest: Path, default: tuple[Question, ...]) -> Iterator[Row]:
    folder = manifest.resolve().parent
    ids: set[str] = set()
    try:
        # Names that are not UTF-8 survive as surrogates; in a question they are refused.
        with manifest.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = _manifest_row(line, str(number), folder, default)
                    if row.id in ids:
                        raise SourceError(f'the id "{row.id}" was there before')
                except SourceError as error:
                    raise SourceError(f"{shown(manifest)}, line {number}: {error}") from None
                ids.add(row.id)
                yield row
    except OSError as error:
        raise SourceError(f"{shown(manifest)} cannot be read: {error.strerror}.") from None
    if not ids:
        raise SourceError(f"{shown(manifest)} has no lines.")


def _manifest_row(line: str, number: str, folder: Path, default: tuple[Question, ...]) -> Row:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(f"not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(fields, dict):
        raise SourceError("not a JSON object")
    unknown = [key for key in fields if key not in MANIFEST_KEYS]
    if unknown:
        raise SourceError(f'"{unknown[0]}" is not one of {", ".join(MANIFEST_KEYS)}')
    image = fields.get("image")
    if image is not None and not (isinstance(image, str) and image):
        raise SourceError('"image" must be a path')
    questions, placed = _manifest_questions(fields)
    if placed is not None:
        if image not in (None, placed):
            raise SourceError('"image" and the image in "messages" differ')
        image = placed
    row_id = fields.get("id", number)
    if not isinstance(row_id, str | int) or isinstance(row_id, bool):
        raise SourceError('"id" must be a string or a number')
    row = Row(
        id=str(row_id),
        image=None if image is None else _local_path(image, folder),
        questions=questions or default,
    )
    if not row.questions:
        raise SourceError('no "question", "questions" or "messages", and no --question was given')
    for question in row.questions:
        if question.uses_image(with_image=False) and row.image is None:
            raise SourceError('the conversation places an image, but there is no "image"')
        if row.image is not None and not question.uses_image(with_image=True):
            raise SourceError('the conversation places no image; its first user turn needs {"type": "image"}')
    return row


def _local_path(image: str, folder: Path) -> Path:
    scheme, separator, rest = image.partition(":")
    if separator and (rest.startswith("//") or scheme == "data"):
        raise SourceError(f"images are named by path, not by a {scheme}: URL")
    return Path(os.path.abspath(folder / image))


def _manifest_questions(fields: dict[str, Any]) -> tuple[tuple[Question, ...], str | None]:
    """The line's own questions, and the image that a conversation in OpenAI's form names."""
    forms = [form for form in ("question", "questions", "messages") if form in fields]
    if len(forms) > 1:
        raise SourceError(f"only one of {', '.join(forms)} can be given")
    choices = fields.get("choices")
    if choices is not None and forms not in (["question"], ["messages"]):
        raise SourceError('"choices" stands beside "question" or "messages", or in an object of "questions"')
    if not forms:
        return (), None
    content = fields[forms[0]]
    if forms == ["question"]:
        return (_question("q1", content, choices),), None
    if forms == ["messages"]:
        turns, image = _openai_turns(content)
        return (_question("q1", turns, choices),), image
    if not isinstance(content, list) or not content:
        raise SourceError('"questions" must be a list of at least one question')
    questions = []
    for number, one in enumerate(content, start=1):
        if isinstance(one, dict):
            if one.keys() | {"choices"} != set(QUESTION_KEYS) or not isinstance(one["id"], str):
                raise SourceError('a question is a text or an object of "id" and "question", and "choices"')
            questions.append(_question(one["id"], one["question"], one.get("choices")))
        else:
            questions.append(_question(f"q{number}", one))
    ids = [question.id for question in questions]
    if len(set(ids)) != len(ids):
        raise SourceError("question ids must differ within a line")
    return tuple(questions), None


def _openai_turns(messages: Any) -> tuple[Any, str | None]:
    """Replace OpenAI's image_url parts by our image parts, and return the one URL."""
    if not isinstance(messages, list):
        raise SourceError('"messages" must be a list of turns')
    urls: list[Any] = []
    turns = []
    for turn in messages:
        if isinstance(turn, dict) and isinstance(turn.get("content"), list):
            parts = []
            for part in turn["content"]:
                if isinstance(part, dict) and part.get("type") == "image_url":
                    reference = part.get("image_url")
                    urls.append(reference.get("url") if isinstance(reference, dict) else reference)
                    parts.append({"type": "image"})
                else:
                    parts.append(part)
            turn = {**turn, "content": parts}
        turns.append(turn)
    if any(not isinstance(url, str) or not url for url in urls):
        raise SourceError('an "image_url" part has no "url"')
    return turns, urls[0] if urls else None


def _question(question_id: str, messages: Any, choices: Any = None) -> Question:
    try:
        return Question.model_validate({"id": question_id, "messages": messages, "choices": choices})
    except ValidationError as invalid:
        errors = invalid.errors(include_input=False, include_url=False)
        # Each form of a question complains; that it is not the other form is the least of it.
        telling = [error for error in errors if error["type"] not in ("tuple_type", "string_type")]
        error = (telling or errors)[0]
        where = ".".join(str(part) for part in error["loc"] if "[" not in str(part) and part != "str")
        raise SourceError(f"{where or 'question'}: {error['msg'].removeprefix('Value error, ')}") from None
