"""Celery's consumer, which here closes every connection that it opens; knows no jobs."""

from contextlib import ExitStack, suppress
from typing import Any

from celery.worker.consumer import Consumer


class ClosingConsumer(Consumer):  # type: ignore[misc]  # celery has no types
    """Closes a connection that opened and then could not be taken into the event loop.

    Celery forgets such a connection, and kombu keeps it open in a registry until the process ends: two
    sockets for each try while a server has no memory left.
    """

    _opened: Any = None

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        self._opened = super().connection_for_read(heartbeat)
        return self._opened

    def connect(self) -> Any:
        """Raises what Celery's connect() raises."""
        self._opened = None
        with ExitStack() as on_error:
            on_error.callback(self._release)
            connection = super().connect()
            on_error.pop_all()
        return connection

    def _release(self) -> None:
        if (opened := self._opened) is not None:
            with suppress(*opened.connection_errors, *opened.channel_errors):
                opened.release()
