"""Writes answers as the metadata.jsonl of a Hugging Face ImageFolder; knows no run."""

import os
from pathlib import Path
from typing import Any, BinaryIO

from contract.answer import Answer
from contract.job import ImagePath
from producer.rows import Answered, AnsweredRow
from producer.sinks.answers import NO_ANSWER, answers_of, caption, prompt_text
from producer.sinks.columns import Columns, carried_value
from producer.sinks.files import json_line
from producer.sinks.sink import LeftAlone, Rows, SinkOptions
from producer.sinks.whole import WriteWhole


def image_folder(path: Path, options: SinkOptions) -> WriteWhole:
    """Writes lines for a file at `path`; their `file_name` is relative to its folder."""
    folder = os.path.realpath(path.parent)

    def write_whole(file: BinaryIO, rows: Rows, left_alone: LeftAlone) -> None:
        columns = Columns.of(rows())
        for row in rows():
            if options.vqa_columns and len(_pairs(row, options)) > 1:
                left_alone.miss(row, "it has several answers, and columns question and answer hold one")
                continue
            values, reason = _values(row, columns, options)
            if not values:
                left_alone.note(reason, row.name or row.id)
                continue
            name, reason = _file_name(row, folder)
            if name is None:
                left_alone.miss(row, reason)
                continue
            file.write(json_line({"file_name": name, **values, **_carried(row, columns, values)}))

    return write_whole


def _file_name(row: AnsweredRow, folder: str) -> tuple[str | None, str]:
    if not isinstance(row.image, ImagePath):
        return None, "its image is no local file"
    image = row.image.to_path()
    name = os.path.relpath(os.path.join(os.path.realpath(image.parent), image.name), folder)
    if not image.is_absolute() or name.startswith("../"):
        return None, "its image is not below the folder of metadata.jsonl"
    try:
        name.encode()
    except UnicodeEncodeError:
        return None, "its name is not UTF-8, which metadata.jsonl cannot hold"
    return name, ""


def _values(row: AnsweredRow, columns: Columns, options: SinkOptions) -> tuple[dict[str, Any], str]:
    """(columns, ""), or ({}, why there are none): a caption, an answer per question, or a question's pair."""
    if options.vqa_columns:
        for one, answer in _pairs(row, options):
            return {"question": prompt_text(one.prompt), "answer": answer.text}, ""
        return {}, NO_ANSWER
    if len(columns.questions) == 1 or options.question is not None:
        text, reason = caption(row, options)
        return ({} if text is None else {options.text_column: text}), reason
    questions, _ = columns.names(["file_name"])
    texts = {one.question: answer.text for one, answer in answers_of(row)}
    if not texts:
        return {}, NO_ANSWER
    return {column: texts.get(question) for question, column in questions.items()}, ""


def _pairs(row: AnsweredRow, options: SinkOptions) -> list[tuple[Answered, Answer]]:
    return [pair for pair in answers_of(row) if options.question in (None, pair[0].question)]


def _carried(row: AnsweredRow, columns: Columns, values: dict[str, Any]) -> dict[str, Any]:
    _, names = Columns(carried=columns.carried).names(["file_name", *values])
    return {
        column: carried_value(row.columns.get(name), columns.carried[name]) for name, column in names.items()
    }
