"""Converts rows, outcomes and messages to and from the ledger's columns; knows no table."""

import json
from typing import Any, Final

from pydantic import TypeAdapter

from contract.answer import Outcome
from producer.rows import Row

OUTCOME: Final[TypeAdapter[Outcome]] = TypeAdapter(Outcome)
ROW: Final[TypeAdapter[Row]] = TypeAdapter(Row)
OutputKnown = tuple[int, int, bool, int | None]
"""The fields of producer.sinks.output_record.Known."""
OUTPUT_KNOWN: Final[TypeAdapter[list[OutputKnown]]] = TypeAdapter(list[OutputKnown])


def stored_id(row_id: str) -> bytes:
    """The id as bytes: file names that are not UTF-8 have surrogates, which SQLite's text cannot hold."""
    return row_id.encode("utf-8", "surrogateescape")


def stored_content(row: Row) -> str:
    """A row's fields except its id, as JSON."""
    others = {
        "more_images": [one.model_dump(mode="json") for one in row.more_images],
        "questions": [one.model_dump(mode="json") for one in row.questions],
        "parameters": dict(row.parameters),
        "offered": dict(row.offered),
        "text_only": row.text_only,
        "detail": row.detail,
        "columns": dict(row.columns),
        "refusal": row.refusal and row.refusal.model_dump(mode="json"),
    }
    content: dict[str, Any] = {"name": row.name, "image": row.image and row.image.model_dump(mode="json")}
    content |= {name: value for name, value in others.items() if value}
    # Keeps NaN and infinity out of outputs.
    return json.dumps(content, allow_nan=False)


def read_row(row_id: bytes, content: str) -> Row:
    return ROW.validate_python({"id": row_id.decode("utf-8", "surrogateescape"), **json.loads(content)})


def read_message(message: str) -> str:
    """The message, checked to be JSON: workers could not answer others. Raises ValueError."""
    json.loads(message)
    return message
