"""Hands completed rows to the sinks, each row once to each; knows no format and no store."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from producer.ledger import Ledger, LedgerError
from producer.sinks.output_record import OutputFile, OutputRecord
from producer.sinks.sink import Sink, SinkError

ROWS: Final = 1000
EMITTED: Final = "emitted"
PLACES: Final = "places"
"""Names in the ledger's state: the place in the order of completion that all sinks have written up to, and
what each of them says of itself there."""


class Outputs:
    """The sinks of one submission, which continue where the last process left them."""

    def __init__(self, ledger: Ledger, record: OutputRecord, sinks: Sequence[Sink]) -> None:
        """`record` is that of the sinks. Raises SinkError for a person's file, with all as it was."""
        refuse_changed(file for sink in sinks for file in sink.files())
        self._ledger = ledger
        self._record = record
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
            self._record.flush()
        self.emitted = place
        return len(rows)

    def finish(self) -> None:
        """After the last row. From now on every change is a person's."""
        for sink in self.sinks:
            sink.finish(self._ledger.in_order)
            sink.close()
        with self._ledger.transaction():
            self._record.flush()

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()
        # Without it the files are known by what was noted before.
        with suppress(LedgerError), self._ledger.transaction():
            self._record.flush()


def refuse_changed(files: Iterable[OutputFile]) -> None:
    """Raises SinkError for the first file that is there and is not as the run folder wrote it."""
    for file in files:
        if not file.is_as_written():
            raise SinkError(file.complaint())
