"""What can still be read of a run: from a ledger with damaged pages, and from the answers it has written."""

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
"""At what cannot be read, before the rest is given up."""
MOST_ASKS: Final = 2**33
"""An id above any, where the ledger cannot tell the last one."""


class Known(NamedTuple):
    """An outcome that was kept, and the model it is of."""

    outcome: Answer | Failure
    model: str | None


class DamagedLedger:
    """Reads around what is damaged; changes nothing. The file may be missing, or no database at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tries = 0

    def state(self, name: str) -> Any:
        """None where it was never set or cannot be read."""
        with suppress(LedgerDamagedError, sqlite3.Error, ValueError), closing(self._open()) as database:
            found = database.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
            return None if found is None else json.loads(found[0])
        return None

    def asks(self) -> Iterator[tuple[bytes, Known]]:
        """Content keys with their outcomes."""
        self._tries = 0
        with suppress(LedgerDamagedError, sqlite3.Error), closing(self._open()) as database:
            last = MOST_ASKS
            with suppress(LedgerDamagedError, sqlite3.Error):
                last = database.execute("SELECT max(id) FROM ask").fetchone()[0] or 0
            yield from self._asks(database, last)

    def outputs(self) -> list[tuple[bytes, list[OutputKnown]]]:
        """What it says of output files, as far as it can be read."""
        found = []
        with (
            suppress(LedgerDamagedError, sqlite3.Error, ValueError, TypeError),
            closing(self._open()) as database,
        ):
            for path, known in database.execute("SELECT path, known FROM output"):
                told = OUTPUT_KNOWN.validate_json(known)
                if isinstance(path, bytes):
                    found.append((path, told))
        return found

    def _open(self) -> Connection:
        # One that may only read would leave SQLite's two companions of the file behind.
        database = open_database(self._path, mode="rw")
        database.execute("PRAGMA query_only = ON")
        return database

    def _asks(self, database: Connection, last: int) -> Iterator[tuple[bytes, Known]]:
        """Of the ids up to `last`: as far as they come, then each half of what is left."""
        ranges = [(0, last)]
        while ranges and self._tries <= MOST_TRIES:
            after, last = ranges.pop()
            try:
                for one in database.execute(
                    "SELECT id, key, outcome, code, model FROM ask WHERE id > ? AND id <= ? ORDER BY id",
                    (after, last),
                ):
                    # Damaged pages may give ids that were not asked for.
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
        told = OUTCOME.validate_json(outcome)
    except ValidationError:
        return None
    said = told.code if isinstance(told, Failure) else None
    if code != said or not isinstance(model, str | None):
        return None
    return key, Known(told, model)


class AnswerFiles:
    """The lines of answers.jsonl and its like, found by their row's id."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Lines that are torn or changed beyond recognition are passed over."""
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
        """(question id, prompt as JSON) → what came of it."""
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


def _answer(told: Mapping[str, Any], model: str | None) -> Known:
    """Of one of a line's answers. Raises ValidationError."""
    if "failure" in told:
        return Known(OUTCOME.validate_python({"kind": "failure", **told["failure"]}), model)
    fields = {name: value for name, value in told.items() if name not in ("question", "prompt")}
    return Known(OUTCOME.validate_python({"kind": "answer", **fields}), model)


def _digest(row_id: str) -> bytes:
    return hashlib.blake2b(os.fsencode(row_id), digest_size=16).digest()
