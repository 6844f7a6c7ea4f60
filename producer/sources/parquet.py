"""Reads rows of Parquet files, with one or many parts; knows nothing of the use of their images."""

import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from contract.counting import counted
from producer.rows import Row
from producer.sources.arrow import ArrowRows
from producer.sources.bad_rows import BadRows
from producer.sources.files import MOST_RATIO, open_raw, reading
from producer.sources.lines import LINE_MAX_BYTES
from producer.sources.refusal import SourceError, library, naming, shown
from producer.sources.source import PlainSource, SourceOptions

BATCH_ROWS: Final = 32
"""Largest number of rows with images in memory."""
TEXT_BATCH_ROWS: Final = 1024
"""Largest number of rows without images in memory."""
BATCH_BYTES: Final = 1 << 28
"""Largest size of a batch, by its row group's mean; a single row may be larger."""
MOST_BATCH_BYTES: Final = 1 << 30
"""Size from which on a batch is refused, if its rows are far above the mean."""
_BUFFER_BYTES: Final = 1 << 20
UNPACKED_COLUMN_BYTES: Final = 1 << 30
"""Unpacked size that every column of a row group may have."""


class Parquet(PlainSource):
    """Parts with the same columns, as one table."""

    def __init__(self, parts: Sequence[str], options: SourceOptions, root: str) -> None:
        """Reads the footers of all parts. Raises SourceError if their columns differ."""
        self._library = library("pyarrow.parquet", "parquet", shown(parts[0]))
        self._parts = parts
        self._ends: list[int] = []
        """Number of rows up to the end of each part."""
        self._open: tuple[int, Any] | None = None
        self._batches: Iterator[Any] = iter(())
        self._batch: tuple[int, Any] | None = None
        """(first row, batch) of the last `read`."""
        first: Any = None
        for part in parts:
            with self._opened(part) as file:
                if first is None:
                    first = file.schema_arrow
                elif file.schema_arrow.names != first.names:
                    raise SourceError(f"{shown(part)} has other columns than {shown(parts[0])}.")
                self._ends.append((self._ends[-1] if self._ends else 0) + file.metadata.num_rows)
        with naming(shown(parts[0])):
            self._table = ArrowRows(first, options, root)
        self.columns = self._table.columns

    def rows(self, bad: BadRows | None = None, /) -> Iterator[Row]:
        if not self._ends[-1]:
            raise SourceError(f"{shown(self._parts[0])} has no rows.")
        position = 0
        bad = bad or BadRows()
        for part in self._parts:
            with self._opened(part) as file:
                for group in range(file.num_row_groups):
                    with naming(f"{shown(part)}, row group {group + 1}"):
                        batches, embedded = self._batches_of(file, group)
                    for batch in batches:
                        _bounded(batch, part)
                        yield from self._table.rows(batch, position, shown(part), bad, embedded=embedded)
                        position += batch.num_rows

    def read(self, place: int) -> bytes:
        if self._batch is None or not self._batch[0] <= place < self._batch[0] + self._batch[1].num_rows:
            self._seek(place)
        assert self._batch is not None
        first, batch = self._batch
        assert self._table.image is not None, "only a row with an image of its own has a place"
        content = self._table.content(batch.column(self._table.image)[place - first].as_py())
        if content is None:
            raise SourceError(f"Row {place + 1} of {shown(self._parts[0])} was changed while it was in use.")
        return content

    def _batches_of(self, file: Any, group: int) -> tuple[Iterator[Any], bool]:
        """Batches of a row group, and whether all its images are embedded; if so, they are left out."""
        to_bytes, to_path = self._table.leaves
        columns = list(self._table.other)
        embedded = to_bytes is not None and _no_nulls(file.metadata.row_group(group), to_bytes)
        if not embedded and self._table.image is not None:
            columns.append(self._table.image)
        elif to_path is not None:
            columns.append(to_path)
        self._refuse_bombs(file.metadata.row_group(group), columns)
        size = BATCH_ROWS if self._table.image in columns or not columns else TEXT_BATCH_ROWS
        # A batch without any column would have no rows.
        columns = columns or [name for name in (self._table.image,) if name is not None]
        size = _batch_rows(file.metadata.row_group(group), columns, size)
        return file.iter_batches(size, row_groups=[group], columns=columns), embedded

    def _refuse_bombs(self, group: Any, columns: Sequence[str]) -> None:
        """Raises SourceError if, by the file's footer, cells do not fit into memory."""
        for number in range(group.num_columns):
            column = group.column(number)
            name = column.path_in_schema.partition(".")[0]
            unpacked, packed = column.total_uncompressed_size, max(1, column.total_compressed_size)
            is_huge = unpacked > max(1, column.num_values) * LINE_MAX_BYTES
            is_bomb = unpacked > UNPACKED_COLUMN_BYTES and unpacked > MOST_RATIO * packed
            if name in columns and (is_huge or is_bomb):
                raise SourceError(
                    f'the column "{name}" unpacks from {packed} to {unpacked} bytes; leave it out, or write '
                    "the file anew with smaller row groups"
                )

    def _seek(self, place: int) -> None:
        """Go on to the batch with `place`; begin its row group again if it is before the present batch."""
        part = bisect.bisect_right(self._ends, place)
        if part == len(self._ends):
            raise SourceError(f"{shown(self._parts[0])} was changed while it was in use.")
        with reading(self._parts[part]):
            if self._batch is None or place < self._batch[0] or self._open is None or self._open[0] != part:
                self._begin(part, place)
            while not self._holds(place):
                batch = next(self._batches, None)
                if batch is None:
                    self._begin(part, place)
                    continue
                assert self._batch is not None
                first = self._batch[0] + self._batch[1].num_rows
                self._batch = (first, _bounded(batch, self._parts[part]))

    def _holds(self, place: int) -> bool:
        return self._batch is not None and place < self._batch[0] + self._batch[1].num_rows

    def _begin(self, part: int, place: int) -> None:
        if self._open is None or self._open[0] != part:
            if self._open is not None:
                self._open[1].close(force=True)
            self._open = (part, self._file(self._parts[part]))
        file = self._open[1]
        first = self._ends[part - 1] if part else 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if place < first + rows:
                break
            first += rows
        columns = [name for name in (self._table.image,) if name is not None]
        size = _batch_rows(file.metadata.row_group(group), columns, BATCH_ROWS)
        self._batches = file.iter_batches(size, row_groups=[group], columns=columns)
        self._batch = (first, _bounded(next(self._batches), self._parts[part]))

    def _file(self, part: str) -> Any:
        stream = open_raw(part)
        try:
            return self._library.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        except (ValueError, OSError) as error:  # pyarrow's own errors are of these
            stream.close()
            raise SourceError(f"{shown(part)} is no Parquet file: {error}.") from None

    @contextmanager
    def _opened(self, part: str) -> Iterator[Any]:
        with reading(part):
            file = self._file(part)
            try:
                yield file
            finally:
                file.close(force=True)


def _batch_rows(group: Any, columns: Sequence[str], most: int) -> int:
    """Number of rows in a batch of at most BATCH_BYTES, by the row group's mean."""
    chunks = (group.column(number) for number in range(group.num_columns))
    size: int = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if any(
            chunk.path_in_schema == name or chunk.path_in_schema.startswith(f"{name}.") for name in columns
        )
    )
    rows: int = group.num_rows
    return max(1, min(most, BATCH_BYTES * max(1, rows) // max(1, size)))


def _bounded(batch: Any, part: str) -> Any:
    """The batch. Raises SourceError if it is too large."""
    if batch.num_rows > 1 and batch.nbytes > MOST_BATCH_BYTES:
        raise SourceError(
            f"{shown(part)}: {counted(batch.num_rows, 'row')} beside each other have {batch.nbytes} bytes, "
            f"and at most {MOST_BATCH_BYTES} are read at once; write the file anew with fewer rows in a row "
            "group."
        )
    return batch


def _no_nulls(group: Any, leaf: str) -> bool:
    """Whether, by the file's statistics, a column has a value in every row."""
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == leaf:
            statistics = column.statistics
            return bool(statistics and statistics.has_null_count and statistics.null_count == 0)
    return False
