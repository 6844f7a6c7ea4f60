"""Writes answers as a Parquet file, with types; knows no run."""

from typing import TYPE_CHECKING, Any, BinaryIO, Final

from contract.answer import Answer
from contract.installing import install_line
from producer.rows import AnsweredRow
from producer.sinks.answers import image_text, one_answer
from producer.sinks.columns import Columns, Kind, carried_value, json_text, printable
from producer.sinks.sink import LeftAlone, Rows, SinkError

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS: Final = 4096
OWN: Final = ("position", "id", "image", "name", "model", "answers")


def require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise SinkError(f"Parquet needs pyarrow, which is not installed: {install_line('parquet')}") from None


def write_parquet(file: BinaryIO, rows: Rows, left_alone: LeftAlone) -> None:  # noqa: ARG001 - none is
    """Write one record per row: a text column for each question, and `answers` with all details.

    Reads the rows twice, as the columns and their types come first.
    """
    import pyarrow.parquet as pq

    columns = Columns.of(rows())
    schema = _schema(columns)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        group: list[dict[str, Any]] = []
        for row in rows():
            group.append(_record(row, columns))
            if len(group) == GROUP_ROWS:
                writer.write_table(_table(group, schema))
                group.clear()
        if group:
            writer.write_table(_table(group, schema))


def _table(group: list[dict[str, Any]], schema: "pa.Schema") -> "pa.Table":
    import pyarrow as pa

    return pa.Table.from_pylist(group, schema=schema)


def _schema(columns: Columns) -> "pa.Schema":
    import pyarrow as pa

    text = pa.string()
    generated = [
        ("text", text),
        ("finish_reason", text),
        ("completion_tokens", pa.int64()),
        ("score", pa.float64()),
        ("mean_log_prob", pa.float64()),
    ]
    choice = [("text", text), ("probability", pa.float64()), ("score", pa.float64())]
    answer = [
        ("question", text),
        ("prompt", text),
        *generated,
        ("prompt_tokens", pa.int64()),
        ("flags", pa.list_(text)),
        ("alternatives", pa.list_(pa.struct(generated))),
        ("choices", pa.list_(pa.struct(choice))),
        ("failure", pa.struct([("code", text), ("message", text)])),
    ]
    kinds: dict[Kind | None, pa.DataType] = {
        "bool": pa.bool_(),
        "int": pa.int64(),
        "float": pa.float64(),
        "text": text,
        "json": text,
        None: text,
    }
    questions, carried = columns.names(OWN)
    return pa.schema(
        [
            ("position", pa.int64()),
            *((name, text) for name in OWN[1:-1]),
            *((name, text) for name in questions.values()),
            *((name, kinds[columns.carried[source]]) for source, name in carried.items()),
            ("answers", pa.list_(pa.struct(answer))),
        ]
    )


def _record(row: AnsweredRow, columns: Columns) -> dict[str, Any]:
    questions, carried = columns.names(OWN)
    image = image_text(row)
    return {
        "position": row.position,
        "id": printable(row.id),
        "image": None if image is None else printable(image),
        "name": None if row.name is None else printable(row.name),
        "model": row.model,
        **{
            questions[one.question]: one.outcome.text
            for one in row.answers
            if isinstance(one.outcome, Answer)
        },
        **{carried[name]: carried_value(value, columns.carried[name]) for name, value in row.columns.items()},
        "answers": [_answer(one_answer(one)) for one in row.answers],
    }


def _answer(line: dict[str, Any]) -> dict[str, Any]:
    """An entry of `answers`. A conversation becomes JSON text, as its turns have several types."""
    prompt = line["prompt"]
    return {**line, "prompt": prompt if isinstance(prompt, str) else json_text(prompt)}
