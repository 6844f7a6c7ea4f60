"""A lock that lets one command use a folder; the kernel releases it however the command ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from captionmill.errors import CaptionmillError

LOCK: Final = "lock"


class FolderInUseError(CaptionmillError):
    """Another command holds the folder's lock."""


@contextmanager
def only_one(folder: Path, name: str = LOCK, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `name` in `folder`, which must exist.

    If another command holds it: wait for it with `wait`, else raise FolderInUseError.
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
