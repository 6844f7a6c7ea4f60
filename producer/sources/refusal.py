"""How a source is refused: one sentence that says where and why; knows no form of source."""

import importlib
import os
from collections.abc import Iterable
from typing import Any

from contract.installing import install_line


class SourceError(ValueError):
    """The source cannot be submitted as it is; the message says where and why."""


class NoImagesError(SourceError):
    """There is no image in a folder, pattern or archive."""


def shown(name: str | os.PathLike[str]) -> str:
    """A file name for a sentence: bytes that are not UTF-8, and line ends, are written as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return text.replace("\n", "\\n").replace("\r", "\\r")


def library(module: str, extra: str, purpose: str) -> Any:
    """An optional library, imported here and now. Raises SourceError if it is not installed."""
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise SourceError(
            f"{purpose} needs {package}, which is not installed: {install_line(extra)}"
        ) from None
    return importlib.import_module(module)


def listed(names: Iterable[str]) -> str:
    """Names for a sentence, in quotes."""
    return ", ".join(f'"{shown(name)}"' for name in names)
