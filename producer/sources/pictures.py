"""Finds the images that a row names, and says why a row without one fails; opens none."""

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from contract.counting import counted
from contract.failure import FailureCode, Refusal
from contract.quoting import quoted
from producer.sources.files import IMAGE_SUFFIXES, scheme_of
from producer.sources.images import holds_bytes
from producer.sources.parameters import listed_in
from producer.sources.refusal import listed

MARK: Final = "<image>"
"""LLaVA's mark for the image's place in a text."""
_NUMBERED: Final = re.compile(r"<?image[ _]?(\d{1,6})>?")
"""Keys of an object that maps marks to images."""
_VIDEO_SUFFIXES: Final = frozenset({".mp4", ".webm", ".avi", ".mov", ".mkv"})
_IN_BYTES: Final = ("bytes", "base64", "data", "b64_json")
_KEYS: Final = (
    *_IN_BYTES,
    *("image", "image_url", "url", "uri", "src", "path", "file", "source", "file_name", "filename"),
    "file_path",
)
"""Keys of an object that is an image; keys of its bytes come before those of its name."""
PICTURE_WORDS: Final = re.compile(
    r"(.*[^a-z])?(images?|imgs?|pictures?|pics?|photos?|photographs?|jpe?g|png|screenshots?|thumbnails?)"
    r"([^a-z].*)?",
    re.IGNORECASE,
)
"""Names of columns that have images, if their values can name one."""
_IMAGE_ID: Final = re.compile(r"(image|img|picture|photo)_?id", re.IGNORECASE)
TEXT_ONLY: Final = "--text-only asks rows without an image all the same"


def names_in(value: Any) -> list[str]:
    """The images that a value names: a text, an object with a path, a URL or bytes, or a list of them.

    Raises Refusal for other values.
    """
    if value is None:
        return []
    if isinstance(value, str):
        items = listed_in(value)
        if items is not None:
            return names_in(items)
        return [value] if value.strip() else []
    if isinstance(value, list | tuple):
        return [name for one in value for name in names_in(one)]
    if isinstance(value, Mapping):
        numbered = [one for key in value if isinstance(key, str) and (one := _NUMBERED.fullmatch(key))]
        if value and len(numbered) == len(value):
            return names_in([value[one[0]] for one in sorted(numbered, key=lambda one: int(one[1]))])
        for key in _KEYS:
            if value.get(key) not in (None, ""):
                found = names_in(value[key])
                whole = key in _IN_BYTES and len(found) == 1 and not holds_bytes(found[0])
                return [f"data:;base64,{found[0]}"] if whole else found
        return []
    raise Refusal(FailureCode.NO_IMAGE, f"{quoted(repr(value))} names no image: a path or a URL does.")


def check_marks(marks: int, images: int) -> None:
    """Raises Refusal if a text places some images, but not all. Without a mark, images come first."""
    if marks in (0, images):
        return
    if not images:
        raise no_image(f"its text places one with {MARK}, and none is named")
    raise Refusal(
        FailureCode.INVALID_JOB,
        f"The row has {counted(images, 'image')}, and its text places {marks}: write {MARK} once for each "
        "image, or not at all.",
    )


def check_numbers(numbers: Sequence[int]) -> None:
    """Raises Refusal if the numbers of a text's marks do not count up by one."""
    if any(after != before + 1 for before, after in itertools.pairwise(numbers)):
        raise Refusal(
            FailureCode.INVALID_JOB,
            f"A text places images by numbers that do not count up by one: {listed(map(str, numbers))}; "
            f"write {MARK} in their places, and name the images in this order.",
        )


def other_media(kind: str) -> Refusal:
    return Refusal(FailureCode.INVALID_JOB, f"The row is about a {kind}, and only images are asked about.")


def no_image(reason: str) -> Refusal:
    """A refusal; `reason` says what was found instead of an image, and what to do."""
    return Refusal(FailureCode.NO_IMAGE, f"The row has no image: {reason}.")


def refuse_missing(record: Mapping[str, Any], column: str | None, text_columns: Iterable[str]) -> None:
    """Raises Refusal for a row that seems to have an image: asked without it, a model would invent one.

    `column` is the image's, `text_columns` are those of the questions.
    """
    if column is not None and column in record:
        raise no_image(f'"{quoted(column)}" is empty; {TEXT_ONLY}')
    asked = set(text_columns)
    for name, value in record.items():
        place = None if name in asked else _place_of_image(name, value)
        if place is not None:
            if _suffix(str(value)) in _VIDEO_SUFFIXES:
                raise other_media("video")
            choose = f"--image-column {quoted(name)} reads it, and " if place == name else ""
            raise no_image(f'"{quoted(place)}" looks like one; {choose}{TEXT_ONLY}')


def _place_of_image(name: str, value: Any) -> str | None:
    """The place of an apparent image in a column, such as `data.image`, or of an image's id; else None."""
    if _IMAGE_ID.fullmatch(name) and value not in (None, ""):
        return name
    for place, text in _texts(name, value):
        if looks_like_image(text) or (PICTURE_WORDS.fullmatch(place.rpartition(".")[2]) and _is_name(text)):
            return place
    return None


def looks_like_image(text: str) -> bool:
    """Whether a text is an image or can be an image's name; any URL can."""
    if holds_bytes(text):
        return True
    if not _is_name(text):
        return False
    return scheme_of(text) is not None or _suffix(text) in IMAGE_SUFFIXES | _VIDEO_SUFFIXES


def _is_name(text: str) -> bool:
    """Whether it can be a path or a URL: one line, not a sentence."""
    stripped = text.strip()
    return (
        bool(stripped)
        and "\n" not in stripped
        and (" " not in stripped or _suffix(stripped) in IMAGE_SUFFIXES)
    )


def _suffix(name: str) -> str:
    """The suffix of a path or a URL, in lower case."""
    return os.path.splitext(name.strip().partition("?")[0].partition("#")[0])[1].lower()


def _texts(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """(keys that lead to it, text) for all texts in a value."""
    stack = [(place, value)]
    while stack:
        where, one = stack.pop()
        if isinstance(one, str):
            yield where, one
        elif isinstance(one, Mapping):
            stack += [(f"{where}.{key}", inner) for key, inner in one.items()]
        elif isinstance(one, list | tuple):
            stack += [(where, inner) for inner in one]
