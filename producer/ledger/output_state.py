"""How far the outputs are, and which are not on disk: the ledger's table `unwritten`."""

from collections.abc import Iterable

from producer.database import Connection
from producer.ledger.state import State


class OutputState:
    """What is written here becomes durable with the ledger's transaction around it."""

    def __init__(self, db: Connection, state: State) -> None:
        self._db = db
        self._state = state

    def begin(self) -> None:
        """All outputs are to be written from the first row on."""
        self._state.set("emitted", 0)
        self._state.set("places", {})
        self._db.execute("DELETE FROM unwritten")

    def keep_unwritten(self, sink: str, rows: Iterable[tuple[int, str]], *, at_end: bool = False) -> None:
        """Note (position, reason) of outputs that a sink did not write.

        Those of the sink's end take the place of what an earlier end left.
        """
        if at_end:
            self._db.execute("DELETE FROM unwritten WHERE sink = ? AND at_end", (sink,))
        self._db.executemany(
            "INSERT OR REPLACE INTO unwritten VALUES (?, ?, ?, ?)",
            [(sink, position, at_end, reason) for position, reason in rows],
        )

    def keep_none_written(self, sink: str, reason: str) -> None:
        """No row's output of a sink is there, all for one reason."""
        self._db.execute(
            "INSERT OR REPLACE INTO unwritten SELECT ?, position, 1, ? FROM row WHERE seq IS NOT NULL",
            (sink, reason),
        )
