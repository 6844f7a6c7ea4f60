"""Reads entries of the store's streams; knows no field of theirs."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import redis


class Entry(NamedTuple):
    """An entry of a stream."""

    key: str
    """Key of the stream."""
    id: str
    fields: dict[str, str]


def read_streams(
    connection: redis.Redis, after: Mapping[Any, str], block_ms: int | None, count: int | None = None
) -> Iterator[Entry]:
    """Entries after the given id of each stream. Waits up to `block_ms` for the first; None does not wait."""
    reply: Any = connection.xread(dict(after), count=count, block=block_ms)
    for key, entries in reply.items() if isinstance(reply, dict) else reply or ():
        # RESP3 nests the entries of a stream once more than RESP2.
        if entries and isinstance(entries[0], list):
            (entries,) = entries
        for entry_id, fields in entries:
            texts = {name.decode(): value.decode() for name, value in fields.items()}
            yield Entry(key.decode(), entry_id.decode(), texts)
