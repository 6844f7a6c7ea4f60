"""Reads records of a file with one JSON object; knows none of the object's forms."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from producer.sources.json_text import parsed_object
from producer.sources.known_forms import entries_of
from producer.sources.records import BadRecord, Record
from producer.sources.refusal import SourceError, shown
from producer.sources.text import open_text

OBJECT_MAX_BYTES: Final = 256 * 2**20
"""Largest size of the object, which is in memory as a whole."""


class JsonObject:
    """The entries of a known form, such as COCO's."""

    unit: Final = "entry"
    columns: Final = None

    def __init__(self, source: str, root: str, encoding: str | None = None) -> None:
        """`root` is the folder of relative image names."""
        self._source = source
        self._root = root
        self._encoding = encoding
        self._again: list[Mapping[str, Any]] | None = None
        self.notes: tuple[str, ...] = ()

    def records(self) -> Iterator[Record | BadRecord | SourceError]:
        try:
            for number, entry in enumerate(self._entries(), start=1):
                if isinstance(entry, dict):
                    yield Record(number, number - 1, entry)
                else:
                    yield BadRecord(number, f"not a JSON object: {json.dumps(entry)[:100]}")
        except SourceError as error:
            yield SourceError(f"entry 1: {error}")

    def at(self, place: int) -> Mapping[str, Any]:
        if self._again is None:
            self._again = list(self._entries())
        if place >= len(self._again):
            raise SourceError("no such entry")
        return self._again[place]

    def _entries(self) -> Iterator[Any]:
        with open_text(self._source, self._encoding) as stream:
            text = stream.read(OBJECT_MAX_BYTES + 1)
        if len(text) > OBJECT_MAX_BYTES:
            raise SourceError(
                f"one JSON object of more than {OBJECT_MAX_BYTES // 2**20} MiB; make a file of lines of it "
                "(.jsonl)"
            )
        content = parsed_object(text.decode("utf-8-sig", "surrogateescape"))
        form, entries = entries_of(content, self._root)
        self.notes = (f"{shown(self._source)} is read as {form}.",)
        yield from entries
