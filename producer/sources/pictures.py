"""Which images a row names, whatever form it names it in, and why a row without one fails; opens none."""

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
from producer.sources.refusal import SourceError, listed

MARK: Final = "<image>"
"""Where the image goes within a text, as LLaVA and those after it write it."""
_NUMBERED: Final = re.compile(r"<?image[ _]?(\d{1,6})>?")
"""Keys of an object that has an image under the mark that stands for it."""
_VIDEO_SUFFIXES: Final = frozenset({".mp4", ".webm", ".avi", ".mov", ".mkv"})
_IN_BYTES: Final = ("bytes", "base64", "data", "b64_json")
_KEYS: Final = (
    *_IN_BYTES,
    *("image", "image_url", "url", "uri", "src", "path", "file", "source", "file_name", "filename"),
    "file_path",
)
"""Where an object says which image it is, the image itself before its name."""
PICTURE_WORDS: Final = re.compile(
    r"(.*[^a-z])?(images?|imgs?|pictures?|pics?|photos?|photographs?|jpe?g|png|screenshots?|thumbnails?)"
    r"([^a-z].*)?",
    re.IGNORECASE,
)
"""Columns that are named so hold images, as long as their values could name one."""
_IMAGE_ID: Final = re.compile(r"(image|img|picture|photo)_?id", re.IGNORECASE)
TEXT_ONLY: Final = "--text-only asks rows without an image all the same"


def names_in(value: Any) -> list[str]:
    """The images that a value names: a text, an object of a path, a URL or bytes, or a list of such.

    Raises Refusal for a value of another kind.
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
    """Raise Refusal where a text places other than all of the row's images; with no mark they come first."""
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
    """Raise Refusal where the marks of a text have numbers that are not those of images in their order."""
    if any(after != before + 1 for before, after in itertools.pairwise(numbers)):
        raise Refusal(
            FailureCode.INVALID_JOB,
            f"A text places images by numbers that do not count up by one: {listed(map(str, numbers))}; "
            f"write {MARK} in their places, and name the images in this order.",
        )


def scattered_marks() -> Refusal:
    return Refusal(
        FailureCode.INVALID_JOB,
        "The row places images in several of its turns, or in a later one: all of them stand in the first "
        "user turn.",
    )


def differing_detail() -> Refusal:
    return Refusal(
        FailureCode.INVALID_JOB,
        'The "detail" of the row\'s images differs, and all are looked at with one: give each the same.',
    )


def other_media(kind: str) -> Refusal:
    return Refusal(FailureCode.INVALID_JOB, f"The row is about a {kind}, and only images are asked about.")


def no_image(reason: str) -> Refusal:
    """`reason` says what was found in the image's place, and what to do."""
    return Refusal(FailureCode.NO_IMAGE, f"The row has no image: {reason}.")


def refuse_missing(record: Mapping[str, Any], column: str | None, text_columns: Iterable[str]) -> None:
    """Raise Refusal for a row whose image has only not been found: asked without it, a model makes one up.

    `column` is the image's, `text_columns` are those that are asked.
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


def refuse_unasked(columns: Iterable[str]) -> None:
    """Raise Refusal for a row that brings neither an image nor a question."""
    raise no_image(
        f'nor does it bring a "question", "questions", "messages" or "conversations" (columns: '
        f"{listed(columns) or 'none'}); --image-column names the image's, and {TEXT_ONLY}"
    )


def _place_of_image(name: str, value: Any) -> str | None:
    """Where in a column an image seems to be, such as `data.image`; an image's id says that there is one."""
    if _IMAGE_ID.fullmatch(name) and value not in (None, ""):
        return name
    for place, text in _texts(name, value):
        if looks_like_image(text) or (PICTURE_WORDS.fullmatch(place.rpartition(".")[2]) and _is_name(text)):
            return place
    return None


def looks_like_image(text: str) -> bool:
    """Whether a text is an image, or could be the name of one. Of a URL one cannot know."""
    if holds_bytes(text):
        return True
    if not _is_name(text):
        return False
    return scheme_of(text) is not None or _suffix(text) in IMAGE_SUFFIXES | _VIDEO_SUFFIXES


def _is_name(text: str) -> bool:
    """Whether it could be a path or a URL: one line, no sentence."""
    stripped = text.strip()
    return (
        bool(stripped)
        and "\n" not in stripped
        and (" " not in stripped or _suffix(stripped) in IMAGE_SUFFIXES)
    )


def _suffix(name: str) -> str:
    """Of a path or a URL, in lower case."""
    return os.path.splitext(name.strip().partition("?")[0].partition("#")[0])[1].lower()


def _texts(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text within a value, with the keys that lead to it."""
    stack = [(place, value)]
    while stack:
        where, one = stack.pop()
        if isinstance(one, str):
            yield where, one
        elif isinstance(one, Mapping):
            stack += [(f"{where}.{key}", inner) for key, inner in one.items()]
        elif isinstance(one, list | tuple):
            stack += [(where, inner) for inner in one]


def as_refusal(error: SourceError) -> Refusal:
    """What is wrong with an image's name, as the failure of its row."""
    return Refusal(FailureCode.INVALID_JOB, f"{str(error).removesuffix('.')}.")
