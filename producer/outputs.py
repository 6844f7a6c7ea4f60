"""Hands completed rows to the sinks, each row once to each; knows no format and no store."""

from collections.abc import Sequence
from typing import Final

from producer.ledger import Ledger
from producer.sinks.sink import Sink

ROWS: Final = 1000
EMITTED: Final = "emitted"
PLACES: Final = "places"
"""Names in the ledger's state: the place in the order of completion that all sinks have written up to, and
what each of them says of itself there."""


class Outputs:
    """The sinks of one submission, which continue where the last process left them."""

    def __init__(self, ledger: Ledger, sinks: Sequence[Sink]) -> None:
        self._ledger = ledger
        self.sinks = tuple(sinks)
        self.emitted: int = ledger.state(EMITTED) or 0
        """Place in the order of completion that all have written up to."""
        places = ledger.state(PLACES) or {}
        for sink in self.sinks:
            sink.resume(places.get(sink.name))

    def write(self) -> int:
        """Write rows that were completed since, durably. Returns how many; 0 says that none are left."""
        rows, place = self._ledger.completed(self.emitted, ROWS)
        if not rows:
            return 0
        places = {sink.name: sink.write(rows) for sink in self.sinks}
        with self._ledger.transaction():
            self._ledger.set_state(EMITTED, place)
            self._ledger.set_state(PLACES, places)
        self.emitted = place
        return len(rows)

    def finish(self) -> None:
        """After the last row."""
        for sink in self.sinks:
            sink.finish(self._ledger.in_order)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()
