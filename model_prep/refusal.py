"""The root of model_prep's exceptions, and libraries' errors as one of them; knows no checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PANIC: Final = "PanicException"
"""Name of the class that tokenizers raises on a panic in Rust; it is no subclass of Exception."""
SHOWN_CHARACTERS: Final = 300
"""Characters quoted from a library's error message."""


class ConversionError(Exception):
    """The conversion cannot be done as asked; the message is a sentence that a person can act on.

    ├── UncutError          the language model cannot be cut between its layers, so it is not compared
    ├── UnquantizableError  a part cannot be quantized; the preset auto keeps it in 16 bits
    └── TooSlowError        the time does not allow to compare every sample
    """


def reason(error: BaseException) -> str:
    """An error's message as the end of a sentence: one line, or two if the first ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    if isinstance(error, KeyError):
        said = f"{said} is missing"
    shown = said if len(said) <= SHOWN_CHARACTERS else said[:SHOWN_CHARACTERS] + "…"
    return shown.rstrip(".") + "."


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn any error of the block into a ConversionError: `what`, and the reason.

    tokenizers and transformers may raise any exception on an invalid file. KeyboardInterrupt and SystemExit
    pass.
    """
    try:
        yield
    except ConversionError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        raise ConversionError(f"{what}: {reason(error)}") from error
