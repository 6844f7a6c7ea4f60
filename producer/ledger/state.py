"""Named values that have no table of their own: the table `state`; knows no name."""

import json
from typing import Any

from producer.database import Connection


class State:
    """JSON-ready values by name."""

    def __init__(self, db: Connection) -> None:
        self._db = db

    def get(self, name: str) -> Any:
        """The value; None if it was never set."""
        found = self._db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        with self._db.reading():
            return None if found is None else json.loads(found[0])

    def set(self, name: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, json.dumps(value)))
