"""Gives completed rows to the sinks, each row once to each sink; knows no format and no store."""

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
"""Names in the ledger's state: how far all sinks have written, in the order of completion, and each sink's
own state there."""


class NotWrittenError(ProducerError):
    """Every question has its answer, but an output is not on disk; the message says what to do."""


class Outputs:
    """The sinks of one submission. They go on where the last process stopped."""

    def __init__(self, ledger: Ledger, record: OutputRecord, sinks: Sequence[Sink]) -> None:
        """`record` is the sinks' record. Raises SinkError for a changed file, before anything is written."""
        refuse_changed(file for sink in sinks for file in sink.files())
        self._ledger = ledger
        self._record = record
        self.sinks = tuple(sinks)
        self.emitted: int = ledger.state.get(EMITTED) or 0
        """Place in the order of completion up to which all sinks have written."""
        places = ledger.state.get(PLACES) or {}
        for sink in self.sinks:
            sink.resume(places.get(sink.name))

    def write(self) -> int:
        """Write newly completed rows durably. Returns their number; 0 if none is left."""
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
        """Finish the sinks after the last row. Later changes to their files are a person's.

        If a sink fails, the others finish all the same; the ledger notes what is not written.
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
        """A line of failures.jsonl for each output that is not on disk."""
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
        # If this fails, the earlier notes still describe the files.
        with suppress(LedgerError), self._ledger.transaction():
            self._record.flush()


def refuse_changed(files: Iterable[OutputFile]) -> None:
    """Raises SinkError for the first existing file that differs from what the run folder wrote."""
    for file in files:
        if not file.is_as_written():
            raise SinkError(file.complaint())


def adopt_changed(files: Iterable[OutputFile]) -> None:
    """Record changed files as the run folder's own. Called within a transaction of the ledger."""
    for file in files:
        if not file.is_as_written():
            file.adopt()
