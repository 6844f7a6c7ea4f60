"""Questions that are asked again, for a failure or a flag: the table `earlier`; knows no queue."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from contract.answer import Answer, Outcome
from producer.database import Connection
from producer.ledger.output_state import OutputState
from producer.ledger.stored import OUTCOME


class Retries:
    """Changes become durable with the ledger's transaction around them."""

    def __init__(self, db: Connection, outputs: OutputState) -> None:
        self._db = db
        self._outputs = outputs

    def changes(self, positions: Sequence[int]) -> dict[int, dict[int, dict[str, Any]]]:
        """Position → number of a question that is asked again → its changed parameters."""
        found: dict[int, dict[int, dict[str, Any]]] = {}
        marks = ",".join("?" * len(positions))
        for position, number, changes in self._db.execute(
            f"SELECT position, number, changes FROM earlier WHERE position IN ({marks})", tuple(positions)
        ):
            with self._db.reading():
                found.setdefault(position, {})[number] = json.loads(changes)
        return found

    def ask_flagged(
        self,
        flag: str,
        changes: Mapping[str, Any],
        *,
        positions: Sequence[int] | None = None,
        jobs: Sequence[int] | None = None,
    ) -> int:
        """Make questions whose answer has a flag due again, with changed parameters. Returns their number.

        Both answers are kept. `positions` or `jobs` restrict it to their questions, each at most once.
        """
        chosen = ""
        of: tuple[int, ...] = ()
        if positions is not None or jobs is not None:
            column, numbers = ("q.position", positions) if positions is not None else ("a.job", jobs)
            of = tuple(numbers or ())
            chosen = (
                f"AND {column} IN ({','.join('?' * len(of))}) AND NOT EXISTS "
                "(SELECT 1 FROM earlier e WHERE e.position = q.position AND e.number = q.number)"
            )
        found = self._db.execute(
            f"""SELECT q.position, q.number, q.ask FROM question q JOIN ask a ON a.id = q.ask
            WHERE a.code IS NULL AND a.outcome IS NOT NULL {chosen}
            AND EXISTS (SELECT 1 FROM json_each(a.outcome, '$.flags') WHERE value = ?)""",
            (*of, flag),
        ).fetchall()
        text = json.dumps(dict(changes))
        for position, number, ask in found:
            self._db.execute(
                "INSERT OR REPLACE INTO earlier VALUES (?, ?, ?, ?)", (position, number, ask, text)
            )
            self._make_due(position, number)
        return len(found)

    def ask_failed(self, codes: Sequence[str] | None) -> int:
        """Make failed questions due again; None stands for all codes. Returns their number."""
        chosen = "a.code IS NOT NULL"
        if codes is not None:
            marks = ",".join("?" * len(codes))
            chosen = f"a.code IN ({marks})"
        failed = self._db.execute(
            f"SELECT q.position, q.number, a.id FROM question q JOIN ask a ON a.id = q.ask WHERE {chosen}",
            tuple(codes or ()),
        ).fetchall()
        for position, number, _ in failed:
            self._make_due(position, number)
        self._db.executemany("DELETE FROM ask WHERE id = ?", [(ask,) for _, _, ask in failed])
        if failed:
            self._outputs.begin()
        return len(failed)

    def choose(self, positions: Sequence[int]) -> None:
        """Give questions that were asked again the better of their answers; the other is kept, too."""
        marks = ",".join("?" * len(positions))
        for position, number, ask, before, after in self._db.execute(
            f"""SELECT e.position, e.number, e.ask, b.outcome, a.outcome FROM earlier e
            JOIN question q ON q.position = e.position AND q.number = e.number
            JOIN ask a ON a.id = q.ask JOIN ask b ON b.id = e.ask
            WHERE q.ask <> e.ask AND a.outcome IS NOT NULL AND e.position IN ({marks})""",
            tuple(positions),
        ).fetchall():
            with self._db.reading():
                first, second = OUTCOME.validate_json(before), OUTCOME.validate_json(after)
            if not _is_better(second, first):
                self._db.execute(
                    "UPDATE question SET ask = ? WHERE position = ? AND number = ?", (ask, position, number)
                )

    def _make_due(self, position: int, number: int) -> None:
        self._db.execute("DELETE FROM question WHERE position = ? AND number = ?", (position, number))
        self._db.execute(
            "UPDATE row SET fed = fed - 1, due = CASE WHEN open = 0 THEN 1 END, seq = NULL "
            "WHERE position = ?",
            (position,),
        )


def _is_better(second: Outcome, first: Outcome) -> bool:
    """Whether the second answer to a question replaces the first."""
    if not isinstance(second, Answer):
        return False
    return not isinstance(first, Answer) or len(second.flags) < len(first.flags)
