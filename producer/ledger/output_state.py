"""The outputs' progress, and what is missing on disk: the table `unwritten`; knows no sink."""

from collections.abc import Iterable

from producer.database import Connection
from producer.ledger.state import State


class OutputState:
    """Changes become durable with the ledger's transaction around them."""

    def __init__(self, db: Connection, state: State) -> None:
        self._db = db
        self._state = state

    def begin(self) -> None:
        """Have all outputs written again from the first row on."""
        self._state.set("emitted", 0)
        self._state.set("places", {})
        self._db.execute("DELETE FROM unwritten")

    def keep_unwritten(self, sink: str, rows: Iterable[tuple[int, str]], *, at_end: bool = False) -> None:
        """Note (position, reason) of outputs that a sink did not write; `at_end` replaces an earlier end."""
        if at_end:
            self._db.execute("DELETE FROM unwritten WHERE sink = ? AND at_end", (sink,))
        self._db.executemany(
            "INSERT OR REPLACE INTO unwritten VALUES (?, ?, ?, ?)",
            [(sink, position, at_end, reason) for position, reason in rows],
        )

    def keep_none_written(self, sink: str, reason: str) -> None:
        """Note that a sink wrote no row's output, for one reason."""
        self._db.execute(
            "INSERT OR REPLACE INTO unwritten SELECT ?, position, 1, ? FROM row WHERE seq IS NOT NULL",
            (sink, reason),
        )
