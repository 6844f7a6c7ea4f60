"""Names and other input within sentences, which stay sentences however long or odd it is."""

import os
from typing import Final

QUOTED_MAX_CHARS: Final = 200
"""Of what came in from outside, such as a cell or a key, in one message."""
_HEAD_CHARS: Final = 130
_TAIL_CHARS: Final = 60


def shown(name: str | os.PathLike[str]) -> str:
    """A name in full: bytes that are not UTF-8, and line ends, are written as escapes."""
    return spelled(os.fspath(name)).replace("\n", "\\n").replace("\r", "\\r")


def spelled(text: str) -> str:
    """A text as UTF-8 can hold it: other bytes, and halves of characters, are written as escapes."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "backslashreplace")


def quoted(text: str | os.PathLike[str]) -> str:
    """Input as a message quotes it: also what moves a terminal's cursor is written as an escape, and of a
    long text its beginning and its end are there.
    """
    whole = os.fspath(text)
    if len(whole) > 4 * QUOTED_MAX_CHARS:
        whole = whole[: 2 * QUOTED_MAX_CHARS] + whole[-2 * QUOTED_MAX_CHARS :]
    whole = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown(whole))
    return whole if len(whole) <= QUOTED_MAX_CHARS else f"{whole[:_HEAD_CHARS]}…{whole[-_TAIL_CHARS:]}"
