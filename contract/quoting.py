"""Names and other input as messages show them, escaped and shortened."""

import os
from typing import Final

QUOTED_MAX_CHARS: Final = 200
"""Characters of one piece of input, such as a cell or a key, in a message."""
_HEAD_CHARS: Final = 130
_TAIL_CHARS: Final = 60


def shown(name: str | os.PathLike[str]) -> str:
    """A whole name, with line ends and bytes that are not UTF-8 written as escapes."""
    return spelled(os.fspath(name)).replace("\n", "\\n").replace("\r", "\\r")


def spelled(text: str) -> str:
    """A text as valid UTF-8, with undecodable bytes and lone surrogates written as escapes."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "backslashreplace")


def quoted(text: str | os.PathLike[str]) -> str:
    """Input for a message: one line of printable characters, the middle of a long text left out."""
    whole = os.fspath(text)
    if len(whole) > 4 * QUOTED_MAX_CHARS:
        whole = whole[: 2 * QUOTED_MAX_CHARS] + whole[-2 * QUOTED_MAX_CHARS :]
    whole = shown(whole)
    if not whole.isprintable():
        whole = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in whole)
    return whole if len(whole) <= QUOTED_MAX_CHARS else f"{whole[:_HEAD_CHARS]}…{whole[-_TAIL_CHARS:]}"
