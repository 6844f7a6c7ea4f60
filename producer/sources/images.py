"""Turns the name of an image in a source into a reference; opens no image."""

import base64
import binascii
import os
import re
import urllib.parse
from typing import Final

from pydantic import ValidationError

from contract.job import ImagePath, ImageUrl
from producer.rows import Embedded, RowImage
from producer.sources.files import is_remote, joined, local_path, scheme_of
from producer.sources.names import on_disk
from producer.sources.refusal import SourceError, shown

_DATA_URL: Final = re.compile(r"data:([^,]*),", re.IGNORECASE)


def is_data_url(text: str) -> bool:
    return text[:5].lower() == "data:"


def named_image(text: str, root: str, place: int) -> RowImage:
    """A path, a file: URL, another URL or a data: URL; a relative path begins at `root`.

    What a data: URL holds becomes the image embedded at `place`. Raises SourceError for a text that can be
    none of them.
    """
    if is_data_url(text):
        data_url_content(text)
        return Embedded(place=place)
    if "\0" in text:
        raise SourceError("the image's name holds a null character")
    scheme = scheme_of(text)
    if scheme == "file":
        return ImagePath.of(os.path.abspath(local_path(text)))
    if scheme is not None:
        return _url(text)
    if is_remote(root) and not text.startswith("/"):
        return _url(joined(root, text))
    return ImagePath.of(on_disk(root, text))


def _url(text: str) -> ImageUrl:
    try:
        return ImageUrl(url=text)
    except ValidationError as invalid:
        reason = invalid.errors()[0]["msg"].removeprefix("Value error, ")
        raise SourceError(f"{shown(text[:200])} is no URL: {reason}") from None


def data_url_content(text: str) -> bytes:
    """What a data: URL holds. Raises SourceError if that is no image in base64."""
    match = _DATA_URL.match(text)
    if match is None:
        raise SourceError("a data: URL has a comma before its content")
    kind = match[1].split(";")
    if not kind[0].lower().startswith("image/") or kind[-1].strip().lower() != "base64":
        raise SourceError("a data: URL of an image begins with data:image/TYPE;base64,")
    try:
        content = base64.b64decode(urllib.parse.unquote(text[match.end() :]), validate=True)
    except (binascii.Error, ValueError):
        raise SourceError("what a data: URL holds is not base64") from None
    if not content:
        raise SourceError("a data: URL holds no bytes")
    return content
