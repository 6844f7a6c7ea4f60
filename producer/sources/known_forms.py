"""Reads records from other tools' JSON (COCO, VQA, kohya, Label Studio); opens no file."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from producer.sources.files import IMAGE_SUFFIXES
from producer.sources.refusal import SourceError, listed

_ENTRY_LISTS: Final = ("data", "rows", "items", "samples", "examples", "questions")
"""Keys of a file's list of entries."""


def entries_of(content: Mapping[str, Any], root: str) -> tuple[str, Iterator[Any]]:
    """The name of the form of a file with one JSON object, and its entries. Raises SourceError.

    `root` is the folder of relative image names.
    """
    if _is_list(content, "images"):
        return "COCO", _coco(content)
    if _is_list(content, "questions") and "image_id" in _first(content["questions"]):
        return "VQA questions", _vqa(content)
    if _is_list(content, "annotations") and "question_id" in _first(content["annotations"]):
        raise SourceError("these are VQA's answers: name the file of its questions instead")
    for key in _ENTRY_LISTS:
        if _is_list(content, key):
            return f'the list "{key}"', iter(content[key])
    if content and all(isinstance(value, dict) for value in content.values()):
        # Keys are paths of images, with or without their suffixes.
        entries = ({"id": key, **content[key], "image": _with_suffix(key, root)} for key in content)
        return "entries by image, as kohya's scripts write them", entries
    raise SourceError(
        "the file is one JSON object of no known form (COCO, VQA, kohya, a list under "
        f"{', '.join(_ENTRY_LISTS)}); its keys are {listed(list(content)[:10])}"
    )


def is_container(content: Mapping[str, Any]) -> bool:
    """Whether an object has entries, and is not an entry itself."""
    if _is_list(content, "questions") and "image_id" not in _first(content["questions"]):
        return False  # a row with several questions
    keys = ("images", "annotations", *_ENTRY_LISTS)
    return any(_is_list(content, key) and bool(_first(content[key])) for key in keys) or (
        bool(content) and all(isinstance(value, dict) for value in content.values())
    )


def flat(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data and the id of a Label Studio task; other records unchanged."""
    data = record.get("data")
    if not isinstance(data, Mapping) or not record.keys() <= _TASK_KEYS:
        return record
    own = {"id": record["id"]} if record.get("id") is not None else {}
    return {**data, **own}


_TASK_KEYS: Final = frozenset(
    {
        *("id", "data", "annotations", "predictions", "meta", "created_at", "updated_at", "project"),
        *("inner_id", "total_annotations", "cancelled_annotations", "total_predictions", "drafts"),
        *("file_upload", "comment_count", "unresolved_comment_count", "last_comment_updated_at"),
        *("updated_by", "comment_authors", "overlap", "is_labeled", "allow_skip"),
    }
)
"""Keys of a task, as Label Studio imports and exports it."""


def _coco(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """An entry per image, with its captions and category names, or per question about it."""
    categories = [one for one in content.get("categories") or () if isinstance(one, dict)]
    names = {one.get("id"): str(one.get("name")) for one in categories}
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for one in content.get("annotations") or ():
        if isinstance(one, dict):
            by_image.setdefault(one.get("image_id"), []).append(one)
    for image in content["images"]:
        if not isinstance(image, dict):
            yield image
            continue
        about = by_image.get(image.get("id"), [])
        asked = [one for one in about if "question" in one]
        for one in asked:
            yield {**image, **one}
        if asked:
            continue
        captions = [one["caption"] for one in about if "caption" in one]
        found = {names[one["category_id"]] for one in about if one.get("category_id") in names}
        entry = dict(image)
        if captions:
            entry["captions"] = captions
        if found:
            entry["categories"] = sorted(found)
        yield entry


def _vqa(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The questions, with COCO's names of the images."""
    subset = content.get("data_subtype")
    for one in content["questions"]:
        if isinstance(one, dict) and isinstance(subset, str) and isinstance(one.get("image_id"), int):
            yield {"image": f"COCO_{subset}_{one['image_id']:012d}.jpg", **one}
        else:
            yield one


def _with_suffix(name: str, root: str) -> str:
    if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
        return name
    there = (name + suffix for suffix in sorted(IMAGE_SUFFIXES))
    return next((one for one in there if os.path.exists(os.path.join(root, one))), name)


def _is_list(content: Mapping[str, Any], key: str) -> bool:
    return isinstance(content.get(key), list)


def _first(entries: list[Any]) -> Mapping[str, Any]:
    return entries[0] if entries and isinstance(entries[0], dict) else {}
