"""Publishes answers while they are generated, in a thread of its own; knows no broker and no model.

The engine's thread only leaves tokens here, so the store never slows a step. After an error nobody knows what
was published, and another worker may have begun a stream. So a stream is then read before it goes on.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from worker.delivery.token_store import Increment, Published
from worker.errors import StoreAwayError, attempt

log = logging.getLogger(__name__)

STOP_POLL_S: Final = 0.2
"""Seconds between two looks at whether a reader asks to stop, while there are no tokens."""
GIVE_UP_S: Final = 30.0
"""Seconds for which a stream's end is tried while the store is away; the job's record has the answer."""


class Tokens(Protocol):
    """Keeps streams: worker.delivery.token_store's TokenStore."""

    def published(self, run: str, index: int) -> Published: ...
    def publish(self, increments: Sequence[Increment]) -> list[bool]: ...
    def close(self) -> None: ...


class TokenStream:
    """One job's answer. take() is called in the engine's thread, and once end() or leave() in the job's."""

    def __init__(
        self, run: str, index: int, decode_so_far: Callable[[Sequence[int]], str], wake: Callable[[], None]
    ) -> None:
        self.run = run
        self.index = index
        self._decode_so_far = decode_so_far
        self._wake = wake
        self._token_ids: list[int] = []
        self._stop = threading.Event()
        self._whole_text: str | None = None
        self._ended_at: float | None = None
        self._left = False
        # Used by the writer's thread alone.
        self._published: str | None = None
        self.dropped = False
        """nothing more is published of it"""
        self._replaced: TokenStream | None = None

    def __enter__(self) -> "TokenStream":
        return self

    def __exit__(self, *_: object) -> None:
        if self._ended_at is None and not self._left:
            self.end(None)

    def take(self, token_ids: Sequence[int]) -> None:
        self._token_ids += token_ids
        self._wake()

    def stop_asked(self) -> bool:
        return self._stop.is_set()

    def end(self, text: str | None) -> None:
        """End with the whole text; None if there is no answer, so that the text published so far stays."""
        self._whole_text = text
        self._ended_at = time.monotonic()
        self._wake()

    def leave(self) -> None:
        self._left = True
        self._wake()

    # In the writer's thread

    @property
    def left(self) -> bool:
        return self._left

    @property
    def overdue(self) -> bool:
        """Whether its end has been tried for GIVE_UP_S."""
        return self._ended_at is not None and time.monotonic() > self._ended_at + GIVE_UP_S

    def replace(self, earlier: "TokenStream") -> None:
        """Take the place of an earlier stream of the same job, whose message was delivered again."""
        earlier.dropped = True
        self._replaced = earlier

    def forget_published(self) -> None:
        self._published = None

    def next(self, tokens: Tokens) -> Increment | None:
        """What to publish now; None if the stream has ended already. May raise StoreAwayError."""
        # Read before the text, which is complete once this is set.
        ends = self._ended_at is not None
        if self._published is None:
            found = tokens.published(self.run, self.index)
            if found.ended:
                return None
            self._published = found.text
        text = self._whole_text if ends else self._decode_so_far(tuple(self._token_ids))
        return Increment(self.run, self.index, self._since_published(text or "", ends), ends)

    def done(self, increment: Increment, stop_asked: bool) -> None:
        """Note that the increment is published, and whether a reader asks to stop."""
        assert self._published is not None, "next() was called"
        self._published += increment.text
        stopping: TokenStream | None = self if stop_asked else None
        while stopping is not None:
            stopping._stop.set()
            stopping = stopping._replaced

    def _since_published(self, text: str, ends: bool) -> str:
        """The part of `text` behind what is published; empty while `text` does not go beyond it."""
        assert self._published is not None, "next() has read it"
        if text.startswith(self._published):
            return text[len(self._published) :]
        if ends and self._whole_text is not None:
            log.error(
                "run %s job %d: the answer does not begin with what was published", self.run, self.index
            )
        return ""


class TokenStreams:
    """One per process: publishes what all its streams hold. Its thread starts at once."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._woken: SimpleQueue[TokenStream | None] = SimpleQueue()
        """streams that have something new; None ends the thread"""
        self._open: dict[TokenStream, None] = {}
        self._thread = threading.Thread(target=self._run, name="captionmill-streams", daemon=True)
        self._thread.start()

    def open(self, run: str, index: int, decode_so_far: Callable[[Sequence[int]], str]) -> TokenStream:
        """A new stream. The writer calls `decode_so_far` for the text that further tokens do not change."""
        stream = TokenStream(run, index, decode_so_far, lambda: self._woken.put(stream))
        self._woken.put(stream)
        return stream

    def close(self) -> None:
        """After the last job: publish what is left, as far as the store is there, and end the thread."""
        self._woken.put(None)
        self._thread.join()
        self._tokens.close()

    def _run(self) -> None:
        closing = False
        while not (closing and not self._open):
            closing = self._wait() or closing
            trouble = attempt(self._publish)
            if isinstance(trouble, StoreAwayError):
                log.warning("tokens cannot be published now: %s", trouble)
                for stream in self._open:
                    stream.forget_published()
                self._open = {} if closing else {s: None for s in self._open if not (s.overdue or s.left)}
                time.sleep(STOP_POLL_S)
            elif trouble is not None:
                # A bug must not end the streams of later jobs; these streams end without their last entry.
                log.error("streams are dropped: a bug", exc_info=trouble)
                for stream in self._open:
                    stream.dropped = True
                self._open = {}

    def _wait(self) -> bool:
        """Return when something is new, or it is time to look who asks to stop. True: end the thread."""
        ended = False
        try:
            stream = self._woken.get(timeout=STOP_POLL_S if self._open else None)
            while True:
                if stream is None:
                    ended = True
                elif not (stream.dropped or stream in self._open):
                    self._add(stream)
                stream = self._woken.get_nowait()
        except Empty:
            return ended

    def _add(self, stream: TokenStream) -> None:
        for earlier in [e for e in self._open if (e.run, e.index) == (stream.run, stream.index)]:
            stream.replace(earlier)
            del self._open[earlier]
        self._open[stream] = None

    def _publish(self) -> None:
        """Publish what all open streams have, in one round trip, and forget those that end."""
        self._open = {stream: None for stream in self._open if not stream.left}
        increments = {stream: stream.next(self._tokens) for stream in self._open}
        for stream, increment in increments.items():
            if increment is None:
                stream.dropped = True
                del self._open[stream]
        pending = {stream: increment for stream, increment in increments.items() if increment is not None}
        if not pending:
            return
        stops = self._tokens.publish(list(pending.values()))
        for (stream, increment), stop_asked in zip(pending.items(), stops, strict=True):
            stream.done(increment, stop_asked)
            if increment.ends:
                stream.dropped = True
                del self._open[stream]
