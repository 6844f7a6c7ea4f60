"""Turns an image's name or text in a source into a reference; opens no image."""

import ast
import base64
import binascii
import os
import re
import urllib.parse
from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError

from contract.counting import counted
from contract.job import MOST_IMAGES, ImagePath, ImageUrl
from contract.quoting import quoted
from producer.rows import Embedded, NamedImage, RowImage
from producer.sources.files import is_remote, joined, local_path, scheme_of
from producer.sources.names import on_disk
from producer.sources.refusal import SourceError

_DATA_URL: Final = re.compile(r"\s*data:([^,]*),", re.IGNORECASE)
_MOST_HEAD_CHARS: Final = 500
_BEGINNINGS: Final = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"RIFF"),
    *(b"\0\0\0\x18ftyp", b"\0\0\0\x1cftyp", b"\0\0\0 ftyp", b"\0\0\0$ftyp"),
)
"""First bytes of image files, which identify base64 without a prefix."""
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\s-]+={0,2}\s*")
_QUOTED: Final = re.compile(r"\s*b?(['\"])(.*)\1\s*", re.DOTALL)
_PRINTED: Final = re.compile(r"\s*b['\"](\\x89PNG|\\xff\\xd8|GIF8|BM|RIFF|II\*|MM\\x00|\\x00\\x00\\x00)")
"""The same first bytes as Python prints them."""
_LABEL_STUDIO: Final = "/data/local-files/?d="
"""Label Studio's prefix for files on its own disk."""
SHORTEST_BASE64: Final = 32
"""Smallest number of characters of an image in base64."""
NAME_MAX_BYTES: Final = 255
PATH_MAX_BYTES: Final = 4096
"""Linux's limits."""


def is_data_url(text: str) -> bool:
    return text[:_MOST_HEAD_CHARS].lstrip()[:5].lower() == "data:"


def holds_bytes(text: str) -> bool:
    """Whether a text is an image itself, as a data: URL or base64, and not an image's name."""
    return is_data_url(text) or _is_base64(text) or _PRINTED.match(text) is not None


def _is_base64(text: str) -> bool:
    text = _bare(text)
    if len(text) < SHORTEST_BASE64 or not _BASE64.fullmatch(text):
        return False
    if len(text) > PATH_MAX_BYTES:
        return True
    try:
        return _decoded(text[:_MOST_HEAD_CHARS].rstrip("="), cut=True).startswith(_BEGINNINGS)
    except binascii.Error:
        return False


def _bare(text: str) -> str:
    """The text without quotation marks around it, of JSON or of Python's b'...'."""
    stripped = text[:_MOST_HEAD_CHARS].lstrip()
    if stripped[:1] not in ("b", "'", '"'):
        return text
    match = _QUOTED.fullmatch(text)
    return text if match is None else match[2].replace("\\n", "")


def _printed_bytes(text: str) -> bytes | None:
    """An image's bytes from Python's b'...'; None for other texts."""
    if not _PRINTED.match(text):
        return None
    try:
        content = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError):
        return None
    return content if isinstance(content, bytes) and content.startswith(_BEGINNINGS) else None


def named_image(text: str, root: str, place: int) -> RowImage:
    """The image that a text names: a path, relative to `root`, a URL, a data: URL or base64.

    A text that is an image itself becomes the image embedded at `place`. Raises SourceError for other texts.
    """
    if holds_bytes(text):
        content_of(text)
        return Embedded(place=place)
    if "\0" in text:
        raise SourceError("the image's name holds a null character")
    if text.startswith(_LABEL_STUDIO):
        text = urllib.parse.unquote(text.removeprefix(_LABEL_STUDIO), errors="surrogateescape").lstrip("/\\")
    scheme = scheme_of(text)
    if scheme == "file":
        return ImagePath.of(os.path.abspath(local_path(text)))
    if scheme is not None:
        return _url(text)
    if is_remote(root) and not text.startswith("/"):
        return _url(joined(root, text))
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:
        raise SourceError(f"{quoted(text)} holds half of a character, so it is the name of no file") from None
    if len(raw) > PATH_MAX_BYTES or any(len(part) > NAME_MAX_BYTES for part in raw.split(b"/")):
        raise SourceError(f"{quoted(text)} is too long for the name of a file")
    return ImagePath.of(on_disk(root, text))


def named_images(
    texts: Sequence[str], root: str, place: int
) -> tuple[RowImage | None, tuple[NamedImage, ...]]:
    """A row's first image, if it has any, and its other images, as for named_image. Raises SourceError."""
    if len(texts) > MOST_IMAGES:
        raise SourceError(f"there are {counted(len(texts), 'image')}; a question holds at most {MOST_IMAGES}")
    found = [named_image(text, root, place) for text in texts]
    named = tuple(one for one in found if not isinstance(one, Embedded))
    if len(found) > 1 and len(named) < len(found):
        within = len(found) - len(named)
        raise SourceError(
            f"of several images each is named by a path or a URL, and {within} of this row's {len(found)} "
            "are within the source: write them to files"
        )
    return found[0] if found else None, named[1:]


def _url(text: str) -> ImageUrl:
    try:
        return ImageUrl(url=text)
    except ValidationError as invalid:
        reason = invalid.errors()[0]["msg"].removeprefix("Value error, ")
        raise SourceError(f"{quoted(text)} is no URL: {reason}") from None


def content_of(text: str) -> bytes:
    """The bytes of a text that is an image itself. Line breaks, blanks and missing padding are allowed.

    Raises SourceError if it is not base64.
    """
    if not is_data_url(text):
        printed = _printed_bytes(text)
        return _content(_bare(text), "what stands in the image's place") if printed is None else printed
    match = _DATA_URL.match(text)
    if match is None:
        raise SourceError("a data: URL has a comma before its content")
    kind = [part.strip().lower() for part in match[1].split(";")]
    if not kind[0].startswith(("image/", "application/octet-stream")) and kind[0] != "":
        raise SourceError(
            f"a data: URL of an image begins with data:image/TYPE;base64, and not {quoted(match[0])}"
        )
    if kind[-1] != "base64":
        raise SourceError("a data: URL of an image begins with data:image/TYPE;base64,")
    return _content(urllib.parse.unquote(text[match.end() :]), "what a data: URL holds")


def _content(text: str, what: str) -> bytes:
    try:
        content = _decoded(text)
    except (binascii.Error, ValueError):
        raise SourceError(f"{what} is not base64") from None
    if not content:
        raise SourceError(f"{what} is empty")
    return content


def _decoded(text: str, *, cut: bool = False) -> bytes:
    """The bytes of base64 in either alphabet; `cut` drops an incomplete end. Raises binascii.Error."""
    plain = "".join(_with_plus(text.strip()).split()).replace("-", "+").replace("_", "/").rstrip("=")
    if cut:
        plain = plain[: len(plain) // 4 * 4]
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def _with_plus(text: str) -> str:
    """The text with a plus sign for each blank, as web forms turn plus signs into blanks.

    Blanks that fold the text into lines of equal length are kept.
    """
    if " " not in text or "\n" in text:
        return text
    *lines, last = text.split(" ")
    width = len(lines[0])
    are_lines = width % 4 == 0 and len(last) <= width and all(len(line) == width for line in lines)
    return text if are_lines else text.replace(" ", "+")
