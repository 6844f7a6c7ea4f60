"""Keeps a folder to one command at a time; the kernel frees it when the command ends, however that is."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from captionmill.errors import CaptionmillError

LOCK: Final = "lock"


class FolderInUseError(CaptionmillError):
    """Another command is at work in the folder."""


@contextmanager
def only_one(folder: Path, name: str = LOCK, *, wait: bool = False) -> Iterator[None]:
    """Be the one command that holds `name` in `folder`, which is there.

    With `wait` another is waited for, else it raises FolderInUseError.
    """
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        raise FolderInUseError(f"Another captionmill command is at work in {folder}.") from None
    try:
        yield
    finally:
        os.close(descriptor)
