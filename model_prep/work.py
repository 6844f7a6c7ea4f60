"""Keeps the finished parts of a conversion for the next one; knows no models.

A work folder is beside the folder that is made. A product in it is a folder, renamed into place when it is
complete, with a key of everything it was made from. A product with another key is made again.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from model_prep.refusal import ConversionError

KEY_FILE: Final = ".key"
LOCK_FILE: Final = ".lock"
KEY_DIGITS: Final = 32

Inputs = Mapping[str, object]
"""What determines a product, as JSON-compatible data."""


class Product:
    """A finished folder, and the key of its inputs."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key


class WorkFolder:
    """A folder of products by name."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def product(self, name: str, inputs: Inputs, make: Callable[[Path], None]) -> Product:
        """What `make` writes into an empty folder, or wrote earlier for the same `inputs`."""
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]
        folder = self._path / name
        if not self.has(name, key):
            # Remove the old one first: the disk may not hold both.
            shutil.rmtree(folder, ignore_errors=True)
            stage = self._path / f"{name}.partial"
            shutil.rmtree(stage, ignore_errors=True)
            stage.mkdir()
            try:
                make(stage)
                (stage / KEY_FILE).write_text(key)
                os.sync()
                stage.rename(folder)
            except BaseException:
                shutil.rmtree(stage, ignore_errors=True)
                raise
        return Product(folder, key)

    def has(self, name: str, key: str) -> bool:
        """Whether a product with this name and key is finished."""
        stamp = self._path / name / KEY_FILE
        return stamp.is_file() and stamp.read_text() == key


def work_path(out: Path) -> Path:
    """The work folder of a conversion into `out`: beside it, so that publishing is a rename."""
    out = out.absolute()
    return out.with_name(f".{out.name}.work")


@contextmanager
def opened(path: Path) -> Iterator[WorkFolder]:
    """The work folder, locked for this process. Raises ConversionError if another process holds it."""
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK_FILE).open("w") as lock:
        try:
            # Not flock(): a process forked by a library would keep its lock.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConversionError(f"Another conversion is at work in {path}.") from None
        try:
            yield WorkFolder(path)
        finally:
            if not any(path.glob(f"*/{KEY_FILE}")):
                shutil.rmtree(path, ignore_errors=True)
