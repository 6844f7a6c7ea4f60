"""Calls a function in a child process, so that a crash in a library ends only the child."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from captionmill.errors import CaptionmillError


class ChildCallError(CaptionmillError):
    """The call gave no result; the message says how the child ended."""


def call_in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `function(*arguments)`, all of which must be picklable. Raises ChildCallError."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(theirs, function, arguments), daemon=True)
    child.start()
    theirs.close()
    try:
        result, error = ours.recv()
    except EOFError:
        child.join()
        raise ChildCallError(_how_it_ended(child.exitcode or 0)) from None
    child.join()
    if error is not None:
        raise ChildCallError(error)
    return result


def _answer(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its child
    try:
        outcome: tuple[Any, str | None] = function(*arguments), None
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        outcome = None, f"{type(error).__name__}: {error}"
    pipe.send(outcome)


def _how_it_ended(code: int) -> str:
    return f"it crashed with {signal.Signals(-code).name}" if code < 0 else f"it ended with code {code}"
