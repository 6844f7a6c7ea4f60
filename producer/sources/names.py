"""Finds the files for names that another system has written; opens no file."""

import os
import re
import unicodedata
from contextlib import suppress
from functools import lru_cache
from typing import Final

from contract.quoting import quoted
from producer.sources.refusal import SourceError

_DRIVE: Final = re.compile(r"[A-Za-z]:[\\/]")
FOLDERS_KEPT: Final = 64
"""Number of folders whose file names are kept in memory."""


def on_disk(root: str, name: str) -> str:
    """The path of a file: as written, with slashes for backslashes, or in the disk's Unicode form.

    If no such file exists, it is the path as written. Raises SourceError for a path with a drive.
    """
    written = os.path.abspath(os.path.join(root, name))
    strange = "\\" in name or _DRIVE.match(name) is not None
    if (name.isascii() and not strange) or os.path.lexists(written):
        return written
    spellings = [name, name.replace("\\", "/")] if strange else [name]
    for spelling in spellings:
        path = os.path.abspath(os.path.join(root, spelling))
        found = path if os.path.lexists(path) else _in_another_form(path)
        if found is not None:
            return found
    if _DRIVE.match(name):
        raise SourceError(f"{quoted(name)} is a path of Windows: write it relative to --image-root")
    return written


def other_spelling(path: str | os.PathLike[str]) -> str | None:
    """A file in the folder of `path` with its name in other case or Unicode form; None if none exists."""
    folder, name = os.path.split(os.fspath(path))
    try:
        return next((one for one in sorted(os.listdir(folder)) if _loose(one) == _loose(name)), None)
    except OSError:
        return None


def _loose(name: str) -> str:
    return _form(_form(name).casefold())


def _in_another_form(path: str) -> str | None:
    """The only file whose path differs just in its Unicode form; None if there is none or several."""
    if path.isascii():
        return None
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        above = _in_another_form(folder)
        if above is None:
            return None
        folder = above
    found = os.path.join(folder, name)
    if os.path.lexists(found):
        return found
    names = _names(folder, os.stat(folder).st_mtime_ns).get(_form(name), ())
    return os.path.join(folder, names[0]) if len(names) == 1 else None


@lru_cache(FOLDERS_KEPT)
def _names(folder: str, _mtime_ns: int) -> dict[str, tuple[str, ...]]:
    """Normalised name → names in the folder with that form, for names that are not ASCII."""
    found: dict[str, tuple[str, ...]] = {}
    with suppress(OSError):
        for name in os.listdir(folder):
            if not name.isascii():
                form = _form(name)
                found[form] = (*found.get(form, ()), name)
    return found


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)
