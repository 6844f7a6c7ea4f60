"""The root of model_prep's exceptions, and libraries' errors as one of them; knows no checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PANIC: Final = "PanicException"
"""What tokenizers raises where its Rust gives up; no Exception, and a class of no module."""
SHOWN_CHARACTERS: Final = 300
"""Of what a library says about a file."""


class ConversionError(Exception):
    """The conversion cannot be done as asked; the message is a sentence that a person can act on.

    └── UncutError      the language model cannot be cut between its layers, so it is not compared
    """


def reason(error: BaseException) -> str:
    """What the error says, as the end of a sentence: a line, and the next if the first only leads to it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    if isinstance(error, KeyError):
        said = f"{said} is missing"
    shown = said if len(said) <= SHOWN_CHARACTERS else said[:SHOWN_CHARACTERS] + "…"
    return shown.rstrip(".") + "."


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """What reading a file leads to within it is raised as a ConversionError: `what`, and why.

    tokenizers raises Exception itself, and transformers whatever a value of another type leads to; so it is
    anything but what ends a program.
    """
    try:
        yield
    except ConversionError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        raise ConversionError(f"{what}: {reason(error)}") from error
