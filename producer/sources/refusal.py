"""Errors of sources, each a sentence that says where and why; knows no form of source."""

import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from contract.installing import install_line
from contract.quoting import QUOTED_MAX_CHARS, quoted
from contract.quoting import shown as shown
from producer.errors import ProducerError


class SourceError(ProducerError, ValueError):
    """The source cannot be submitted as it is; the message says where and why."""


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Adds the place to a SourceError's message, and a full stop."""
    try:
        yield
    except SourceError as error:
        raise SourceError(f"{place}: {error}.") from None


class NoImagesError(SourceError):
    """There is no image in a folder, pattern or archive."""


def library(module: str, extra: str, purpose: str) -> Any:
    """Import an optional library. Raises SourceError if it is not installed."""
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
    """Names in quotes, for a sentence; if there are many, the first ones and the number of the others."""
    every = [f'"{quoted(name)}"' for name in names]
    first: list[str] = []
    for name in every:
        if first and sum(map(len, first)) + len(name) > QUOTED_MAX_CHARS:
            return f"{', '.join(first)} and {len(every) - len(first)} more"
        first.append(name)
    return ", ".join(first)
