"""Writes answers as the JSON lists of COCO, LLaVA, VQA and Label Studio; knows no run."""

import math
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, BinaryIO

from contract.job import ImageUrl
from producer.rows import Answered, AnsweredRow
from producer.sinks.answers import answers_of, caption, image_text, image_texts, turn_text
from producer.sinks.files import json_text
from producer.sinks.sink import LeftAlone, Rows, SinkOptions
from producer.sinks.whole import WriteWhole

Entries = Callable[[AnsweredRow, SinkOptions], Iterator[dict[str, Any]]]
"""Gives a row's entries; none if the row has nothing for the list."""


def json_list(entries: Entries, options: SinkOptions) -> WriteWhole:
    """Writes the list entry by entry, so that it is never in memory as a whole."""

    def write_whole(file: BinaryIO, rows: Rows, left_alone: LeftAlone) -> None:
        separator = b"[\n"
        for row in rows():
            empty = True
            for entry in entries(row, options):
                file.write(separator + json_text(entry))
                separator, empty = b",\n", False
            if empty:
                left_alone.note("it has no answer for this list", row.name or row.id)
        file.write(b"[]\n" if separator == b"[\n" else b"\n]\n")

    return write_whole


def coco_entries(row: AnsweredRow, options: SinkOptions) -> Iterator[dict[str, Any]]:
    """COCO's caption results. The id is the column `image_id`, a COCO file name's number, or the row's id."""
    text, _ = caption(row, options)
    if text is not None:
        yield {"image_id": _coco_id(row), "caption": text}


def vqa_entries(row: AnsweredRow, options: SinkOptions) -> Iterator[dict[str, Any]]:
    """VQAv2 results. The id is the column `question_id` or the row's id; several questions have their own."""
    for one, answer in answers_of(row):
        if options.question in (None, one.question):
            if len(row.answers) == 1:
                question_id = _number(row.columns.get("question_id") or row.id)
            else:
                question_id = f"{row.id}/{one.question}"
            yield {"question_id": question_id, "answer": answer.text}


def llava_entries(row: AnsweredRow, options: SinkOptions) -> Iterator[dict[str, Any]]:
    """LLaVA's fine-tuning data: a row's questions are turns of one entry, a conversation is its own entry."""
    image = image_texts(row) if row.more_images else row.name or image_text(row)
    head = {"id": row.id, **({} if image is None else {"image": image})}
    mark = "" if image is None else "<image>\n" * (1 + len(row.more_images))
    pairs: list[dict[str, str]] = []
    for one, answer in answers_of(row):
        if options.question not in (None, one.question):
            continue
        if not isinstance(one.prompt, str):
            turns = [*_llava_turns(one), {"from": "gpt", "value": answer.text}]
            entry_id = row.id if len(row.answers) == 1 else f"{row.id}/{one.question}"
            yield {**head, "id": entry_id, "conversations": turns}
            continue
        pairs.append({"from": "human", "value": ("" if pairs else mark) + one.prompt})
        pairs.append({"from": "gpt", "value": answer.text})
    if pairs:
        yield {**head, "conversations": pairs}


def label_studio_entries(row: AnsweredRow, options: SinkOptions) -> Iterator[dict[str, Any]]:
    """Label Studio's import: a text area named `caption`, or one for each question, named by its id.

    A score is the geometric mean of the tokens' probabilities; the row has the lowest of its answers'.
    """
    answers = [(one, answer) for one, answer in answers_of(row) if options.question in (None, one.question)]
    if not answers:
        return
    image = _label_studio_image(row, options.image_prefix)
    name_of_one = len(row.answers) == 1 or options.question is not None
    certain = [min(1.0, math.exp(answer.mean_log_prob)) for _, answer in answers]
    result = [
        {
            "from_name": "caption" if name_of_one else one.question,
            "to_name": "image",
            "type": "textarea",
            "value": {"text": [answer.text]},
            "score": score,
        }
        for (one, answer), score in zip(answers, certain, strict=True)
    ]
    yield {
        "data": {"image": image, "id": row.id},
        "predictions": [{"model_version": row.model or "", "score": min(certain), "result": result}],
    }


def _llava_turns(one: Answered) -> Iterator[dict[str, str]]:
    speakers = {"user": "human", "assistant": "gpt", "system": "system"}
    for turn in one.prompt:
        assert isinstance(turn, dict)
        yield {"from": speakers[turn["role"]], "value": turn_text(turn, "<image>", between="\n")}


def _coco_id(row: AnsweredRow) -> Any:
    own = row.columns.get("image_id")
    if own is not None:
        padded = re.fullmatch(r"0*([0-9]{1,18})", own) if isinstance(own, str) else None
        return _number(padded[1] if padded else own)
    digits = re.search(r"(?:^|_)([0-9]{12})$", PurePath(row.name or "").stem)
    return int(digits[1]) if digits else _number(row.id)


def _label_studio_image(row: AnsweredRow, prefix: str) -> str | None:
    """The prefix and the image's escaped name; without a prefix the image's full path or URL."""
    if not prefix:
        return image_text(row) or row.name
    if row.name is None or isinstance(row.image, ImageUrl):
        return image_text(row)
    return prefix + urllib.parse.quote(os.fsencode(row.name))


def _number(value: Any) -> Any:
    """The id, as a number if it is a whole number: tools that load the list expect that."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    number = re.fullmatch(r"(0|[1-9][0-9]{0,17})(\.0+)?", value) if isinstance(value, str) else None
    return value if number is None else int(number[1])
