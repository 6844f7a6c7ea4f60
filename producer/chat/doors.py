"""Refuses requests that are too large, foreign, about other files, or guess passwords; knows no page.

Gradio checks the files that a client names only in pages that it launches itself, not in mounted ones.
"""

import json
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

UPLOAD: Final = "/upload"
LOGIN: Final = "/login"
"""Ends of the requests' paths."""
FORM_BYTES: Final = 2**20
"""Bytes of an upload beside the files in it."""
ASKED_BYTES: Final = 8 * 2**20
"""Largest size of any other request: a question and the conversation before it."""
GUESSES: Final = 10
GUESSES_OF_ALL: Final = 100
"""Numbers of wrong passwords within GUESS_S, from one address and from all."""
GUESS_S: Final = 60.0
ADDRESSES: Final = 1000
"""Number of addresses that are remembered."""


class Doors:
    """The outermost middleware. A refused request is not read any further."""

    def __init__(
        self,
        app: Any,
        *,
        upload_max_bytes: int,
        uploads: Path,
        examples: Collection[Path],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Requests may name files below `uploads`, and `examples`."""
        self._app = app
        self._uploads = uploads.resolve()
        self._examples = frozenset(map(str, examples))
        self._upload_max_bytes = upload_max_bytes
        self._guesses = _Guesses(clock)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        path = scope["path"].rstrip("/")
        refused = None
        if not _is_own(headers):
            refused = PlainTextResponse("This page takes no requests from other pages.", 403)
        address = (scope.get("client") or ("",))[0]
        is_login = path.endswith(LOGIN) and scope["method"] == "POST"
        if is_login and self._guesses.too_many(address):
            message = "Too many wrong passwords; try again in a minute."
            refused = PlainTextResponse(message, 429, {"Retry-After": f"{GUESS_S:.0f}"})
        most_bytes = self._upload_max_bytes + FORM_BYTES if path.endswith(UPLOAD) else ASKED_BYTES
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most_bytes:
            refused = _too_large(most_bytes)
        if refused is not None:
            await refused(scope, receive, send)
            return
        if scope["method"] == "POST" and not path.endswith(UPLOAD):
            received = await _whole(receive, most_bytes)
            if received is None:
                refused = _too_large(most_bytes)
            elif not is_login and not self._names_own_files(received[-1]["body"], headers.get("host", "")):
                refused = PlainTextResponse("The request names a file that is no upload of this page.", 403)
            if refused is not None:
                await refused(scope, receive, send)
                return
            assert received is not None
            receive = _after(received, receive)
        await self._bounded(scope, receive, send, most_bytes, address if is_login else None)

    def _names_own_files(self, body: bytes, host: str) -> bool:
        """Whether every file in a request's JSON is an upload or an example on this server."""
        try:
            left: list[Any] = [json.loads(body or b"null")]
        except (ValueError, RecursionError):
            return not body.lstrip().startswith((b"{", b"["))
        while left:
            one = left.pop()
            if isinstance(one, dict):
                path, url = one.get("path"), one.get("url")
                if isinstance(path, str) and not self._is_own(path):
                    return False
                if isinstance(url, str) and urlsplit(url).netloc not in ("", host):
                    return False
                left.extend(one.values())
            elif isinstance(one, list):
                left.extend(one)
        return True

    def _is_own(self, path: str) -> bool:
        try:
            real = Path(path).resolve()
        except (OSError, ValueError):
            return False
        return os.path.isabs(path) and (str(real) in self._examples or real.is_relative_to(self._uploads))

    async def _bounded(self, scope: Any, receive: Any, send: Any, most_bytes: int, login: str | None) -> None:
        """Pass the request on while its body is within bounds; `login` is the address of a login attempt."""
        received = 0
        answered = False
        ended = scope["method"] != "POST"

        async def count(message: Any = None) -> Any:
            nonlocal received, ended
            message = await receive()
            received += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if received > most_bytes:
                raise _TooLargeError
            return message

        async def note(message: Any) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                if not ended:  # the rest of the body is not needed
                    MutableHeaders(scope=message)["Connection"] = "close"
                if login is not None and message["status"] >= 400:
                    self._guesses.note(login)
            await send(message)

        try:
            await self._app(scope, count, note)
        except _TooLargeError:
            if not answered:
                await _too_large(most_bytes)(scope, receive, send)


async def _whole(receive: Any, most_bytes: int) -> list[Any] | None:
    """The request's body as one message; None if it is larger than `most_bytes`."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return [message | {"body": b""}]
        body += message.get("body", b"")
        if len(body) > most_bytes:
            return None
        if not message.get("more_body", False):
            return [{"type": "http.request", "body": bytes(body), "more_body": False}]


def _after(received: list[Any], receive: Any) -> Any:
    """A `receive` that gives these messages first."""

    async def next_one() -> Any:
        return received.pop(0) if received else await receive()

    return next_one


class _TooLargeError(Exception):
    """The body is larger than its bound."""


class _Guesses:
    """Recent wrong passwords, by address."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._of: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=GUESSES_OF_ALL)

    def note(self, address: str) -> None:
        own = self._of.setdefault(address, deque(maxlen=GUESSES))
        self._of.move_to_end(address)
        if len(self._of) > ADDRESSES:
            self._of.popitem(last=False)
        for guesses in (own, self._all):
            guesses.append(self._clock())

    def too_many(self, address: str) -> bool:
        since = self._clock() - GUESS_S
        every = ((self._of.get(address, deque()), GUESSES), (self._all, GUESSES_OF_ALL))
        return any(len(guesses) == most and guesses[0] > since for guesses, most in every)


def _is_own(headers: Mapping[str, str]) -> bool:
    """Whether the request comes from one of our pages, or not from a browser.

    A proxy that changes the Host sends X-Forwarded-Host, which a foreign page cannot set.
    """
    origin = headers.get("origin")
    if origin is None:
        return True
    return urlsplit(origin).netloc.lower() in (
        headers.get("host", "").lower(),
        headers.get("x-forwarded-host", "").lower(),
    )


def _too_large(most_bytes: int) -> PlainTextResponse:
    return PlainTextResponse(f"A request may have {most_bytes} bytes at most.", 413, {"Connection": "close"})
