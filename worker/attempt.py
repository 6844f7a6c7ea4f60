"""Turns an exception into a value where somebody else is to hear of it; knows nothing of what is called."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def attempt(call: Callable[[], T]) -> T | Exception:
    """What `call` returns, or the Exception that it raises."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - the caller tells whoever the error concerns
        return error


def fulfil(future: Future[T], call: Callable[[], T]) -> None:
    """Set the future to what `call` returns or raises, so that nobody waits for it in vain."""
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - raised again in every thread that waits
        future.set_exception(error)
    else:
        future.set_result(result)
