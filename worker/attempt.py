"""Turns an exception into a value for another caller or thread to handle; knows nothing of what is called."""

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
    """Give the future the result or the exception of `call`, so that every waiting thread goes on."""
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - raised again in every thread that waits
        future.set_exception(error)
    else:
        future.set_result(result)
