"""The folder of `captionmill server`: whether it may be used, and its password; starts nothing."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from captionmill.embedded_server import new_password
from captionmill.errors import CaptionmillError
from captionmill.folder_lock import LOCK, FolderInUseError, only_one

PASSWORD: Final = "password"
SETTINGS: Final = "valkey.conf"
LOG: Final = "valkey.log"
KEPT: Final = "appendonlydir"
"""Valkey's name for the folder of the append-only file."""
DAMAGED: Final = f"{KEPT}.damaged"
"""Name to give that folder when it cannot be read."""
OURS: Final = frozenset({LOCK, PASSWORD, SETTINGS, LOG, KEPT, DAMAGED})
SHORTEST_PASSWORD: Final = 16


class ServerFolderError(CaptionmillError):
    """The folder cannot be used for a server; the message says what to do."""


def check_folder(folder: Path) -> None:
    """Check `folder` before anything is made in it. Raises ServerFolderError."""
    if not folder.exists():
        return
    with _sentences(folder):
        strange = sorted(entry.name for entry in folder.iterdir() if entry.name not in OURS)
        if strange:
            raise ServerFolderError(
                f"{folder} holds other files, such as {strange[0]}: name an empty folder with --data, or one "
                "that a server made."
            )
        if (folder / LOCK).exists():
            with only_one(folder):
                pass


@contextmanager
def server_folder(folder: Path) -> Iterator[None]:
    """Create `folder` if needed, and hold its lock. Raises ServerFolderError."""
    with ExitStack() as stack:
        with _sentences(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(only_one(folder))
        yield


@contextmanager
def _sentences(folder: Path) -> Iterator[None]:
    try:
        yield
    except FolderInUseError:
        raise ServerFolderError(
            f"Another `captionmill server` is at work on {folder}: use that one, or name another folder with "
            "--data."
        ) from None
    except OSError as error:
        raise ServerFolderError(
            f"{folder} cannot be used ({error.strerror}): name a folder that you may write to with --data."
        ) from None


def kept_password(folder: Path, *, needed: bool) -> str | None:
    """The password in `folder`; a missing one is made if `needed`, else None is returned.

    An existing password is always used, as workers on other machines send it. Raises ServerFolderError.
    """
    file = folder / PASSWORD
    if not file.exists():
        if not needed:
            return None
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{new_password()}\n")
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise ServerFolderError(f"Others can read the password in {file}: chmod 600 {file}")
    try:
        first, *_ = [*file.read_text().splitlines(), ""]
    except UnicodeDecodeError:
        first = ""
    if not re.fullmatch(rf"[!-~]{{{SHORTEST_PASSWORD},}}", first):
        raise ServerFolderError(
            f"The first line of {file} is no password of {SHORTEST_PASSWORD} or more letters, digits and "
            "signs without spaces: write one there, or remove the file and one is made."
        )
    return first
