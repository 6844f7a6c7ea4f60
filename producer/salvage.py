"""Reads what is left of a run: from a damaged ledger, and from answer files; changes nothing."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from contract.answer import Answer
from contract.failure import Failure
from producer.database import Connection, LedgerDamagedError, open_database
from producer.keys import KEY_BYTES
from producer.ledger import OUTCOME, OUTPUT_KNOWN, OutputKnown

MOST_TRIES: Final = 20_000
"""Number of read errors after which the rest is given up."""
MOST_ASKS: Final = 2**33
"""Upper bound of ids, if the ledger cannot tell the last one."""


class Known(NamedTuple):
    """A stored outcome and its model."""

    outcome: Answer | Failure
    model: str | None


class DamagedLedger:
    """Reads around the damage in a ledger. The file may be missing, or no database at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tries = 0

    def state(self, name: str) -> Any:
        """None if it was never set or cannot be read."""
        with suppress(LedgerDamagedError, sqlite3.Error, ValueError), closing(self._open()) as database:
            found = database.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
            return None if found is None else json.loads(found[0])
        return None

    def asks(self) -> Iterator[tuple[bytes, Known]]:
        """(content key, outcome) of all answered questions that can be read."""
        self._tries = 0
        with suppress(LedgerDamagedError, sqlite3.Error), closing(self._open()) as database:
            last = MOST_ASKS
            with suppress(LedgerDamagedError, sqlite3.Error):
                last = database.execute("SELECT max(id) FROM ask").fetchone()[0] or 0
            yield from self._asks(database, last)

    def outputs(self) -> list[tuple[bytes, list[OutputKnown]]]:
        """(output file, its known contents), as far as they can be read."""
        found = []
        with (
            suppress(LedgerDamagedError, sqlite3.Error, ValueError, TypeError),
            closing(self._open()) as database,
        ):
            for path, known in database.execute("SELECT path, known FROM output"):
                contents = OUTPUT_KNOWN.validate_json(known)
                if isinstance(path, bytes):
                    found.append((path, contents))
        return found

    def _open(self) -> Connection:
        # Opened read-only, SQLite would leave its two companion files behind.
        database = open_database(self._path, mode="rw")
        database.execute("PRAGMA query_only = ON")
        return database

    def _asks(self, database: Connection, last: int) -> Iterator[tuple[bytes, Known]]:
        """Reads ids up to `last`. After an error, it goes on with each half of the rest."""
        ranges = [(0, last)]
        while ranges and self._tries <= MOST_TRIES:
            after, last = ranges.pop()
            try:
                for one in database.execute(
                    "SELECT id, key, outcome, code, model FROM ask WHERE id > ? AND id <= ? ORDER BY id",
                    (after, last),
                ):
                    # Damaged pages may give ids outside of the range.
                    after = max(after, int(one[0]))
                    known = _known(*one[1:])
                    if known is not None:
                        yield known
            except (LedgerDamagedError, sqlite3.Error, ValueError, TypeError):
                self._tries += 1
                if last - after > 1:
                    middle = (after + last) // 2
                    ranges += [(middle, last), (after, middle)]


def _known(key: Any, outcome: Any, code: Any, model: Any) -> tuple[bytes, Known] | None:
    if not isinstance(key, bytes) or len(key) != KEY_BYTES or not isinstance(outcome, str):
        return None
    try:
        found = OUTCOME.validate_json(outcome)
    except ValidationError:
        return None
    own_code = found.code if isinstance(found, Failure) else None
    if code != own_code or not isinstance(model, str | None):
        return None
    return key, Known(found, model)


class AnswerFiles:
    """The lines of answers.jsonl and similar files, by the row's id."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Skips lines that cannot be parsed."""
        self._files = [path.open("rb") for path in paths if path.is_file()]
        self._places: dict[bytes, tuple[int, int]] = {}
        for number, file in enumerate(self._files):
            place = 0
            for line in file:
                with suppress(ValueError, KeyError, TypeError):
                    self._places[_digest(json.loads(line)["id"])] = (number, place)
                place += len(line)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def answers(self, row_id: str) -> Mapping[tuple[str, str], Known]:
        """(question id, prompt as JSON) → outcome."""
        found = self._places.get(_digest(row_id))
        if found is None:
            return {}
        file = self._files[found[0]]
        file.seek(found[1])
        try:
            line = json.loads(file.readline())
            if line["id"] != row_id:
                return {}
            return {
                (one["question"], json.dumps(one["prompt"])): _answer(one, line["model"])
                for one in line["answers"]
            }
        except (ValueError, KeyError, TypeError):
            return {}


def _answer(line: Mapping[str, Any], model: str | None) -> Known:
    """The outcome that an answer's fields describe. Raises ValidationError."""
    if "failure" in line:
        return Known(OUTCOME.validate_python({"kind": "failure", **line["failure"]}), model)
    fields = {name: value for name, value in line.items() if name not in ("question", "prompt")}
    return Known(OUTCOME.validate_python({"kind": "answer", **fields}), model)


def _digest(row_id: str) -> bytes:
    return hashlib.blake2b(os.fsencode(row_id), digest_size=16).digest()
