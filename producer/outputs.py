"""Hands completed rows to the sinks, each row once to each; knows no format and no store."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from producer.errors import ProducerError
from producer.ledger import Ledger, LedgerError
from producer.sinks.lines import FailuresSink
from producer.sinks.output_record import OutputFile, OutputRecord
from producer.sinks.sink import NOT_WRITTEN, Sink, SinkError
from producer.sources import shown

ROWS: Final = 1000
EMITTED: Final = "emitted"
PLACES: Final = "places"
"""Names in the ledger's state: the place in the order of completion that all sinks have written up to, and
what each of them says of itself there."""


class NotWrittenError(ProducerError):
    """Every answer is there, and an output that was asked for is not on disk; the message says what to do."""


class Outputs:
    """The sinks of one submission, which continue where the last process left them."""

    def __init__(self, ledger: Ledger, record: OutputRecord, sinks: Sequence[Sink]) -> None:
        """`record` is that of the sinks. Raises SinkError for a person's file, with all as it was."""
        refuse_changed(file for sink in sinks for file in sink.files())
        self._ledger = ledger
        self._record = record
        self.sinks = tuple(sinks)
        self.emitted: int = ledger.state.get(EMITTED) or 0
        """Place in the order of completion that all have written up to."""
        places = ledger.state.get(PLACES) or {}
        for sink in self.sinks:
            sink.resume(places.get(sink.name))

    def write(self) -> int:
        """Write rows that were completed since, durably. Returns how many; 0 says that none are left."""
        rows, place = self._ledger.completed(self.emitted, ROWS)
        if not rows:
            return 0
        places = {sink.name: sink.write(rows) for sink in self.sinks}
        with self._ledger.transaction():
            for sink in self.sinks:
                self._ledger.outputs.keep_unwritten(sink.name, sink.left_alone.take_unwritten())
            self._ledger.state.set(EMITTED, place)
            self._ledger.state.set(PLACES, places)
            self._record.flush()
        self.emitted = place
        return len(rows)

    def finish(self) -> None:
        """After the last row. From now on every change is a person's.

        One sink that cannot keeps no other from its end: what is not written is noted in the ledger.
        """
        for sink in self.sinks:
            self._finish(sink)
        for sink in self.sinks:
            if isinstance(sink, FailuresSink):
                sink.tell(self._unwritten())
            sink.close()
        with self._ledger.transaction():
            self._record.flush()

    def _finish(self, sink: Sink) -> None:
        failed = None
        try:
            sink.finish(self._ledger.in_order)
        except SinkError as error:
            failed = str(error)
        except OSError as error:
            failed = f"{shown(error.filename or sink.name)} cannot be written: {error.strerror or error}"
        with self._ledger.transaction():
            self._ledger.outputs.keep_unwritten(sink.name, sink.left_alone.take_unwritten(), at_end=True)
            if failed is not None:
                self._ledger.outputs.keep_none_written(sink.name, failed)

    def _unwritten(self) -> Iterator[dict[str, Any]]:
        """A line for each output that is not on disk."""
        for sink in self._ledger.count_unwritten():
            for position, row, reason in self._ledger.unwritten(sink):
                yield {
                    "position": position,
                    "id": row.id,
                    "name": row.name,
                    "sink": sink,
                    "code": NOT_WRITTEN,
                    "message": reason,
                }

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


def adopt_changed(files: Iterable[OutputFile]) -> None:
    """Take for our own what is not. Within a transaction of the ledger."""
    for file in files:
        if not file.is_as_written():
            file.adopt()
