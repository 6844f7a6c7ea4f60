"""Every question that was ever asked, by content key, and its outcome: the table `ask`; knows no rows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from contract.answer import Answer
from contract.failure import Failure, FailureCode
from producer.database import Connection

ASK: Final = """
INSERT INTO ask (key, job, question, outcome, code, model) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET job = excluded.job, question = excluded.question,
    outcome = excluded.outcome, code = excluded.code, model = excluded.model
"""
"""Adds an ask, or replaces its contents; questions of rows keep referring to it."""
LEFT_OUT: Final = Failure(
    code=FailureCode.INTERNAL_ERROR, message="The worker's record leaves this question out."
)


class Result(NamedTuple):
    """The outcome of one question of a job; question "*" stands for all its questions."""

    job: int
    question: str
    outcome: Answer | Failure
    model: str | None


class AskState(NamedTuple):
    """The state of a question that was asked before."""

    has_outcome: bool
    model: str | None
    """Model id of the outcome."""
    code: FailureCode | None
    """Failure code of the outcome."""


class Asks:
    """Changes become durable with the ledger's transaction around them."""

    def __init__(self, db: Connection) -> None:
        self._db = db

    def known(self, keys: Sequence[bytes]) -> dict[bytes, AskState]:
        """Content key → state, without the keys that were never asked."""
        found = self._db.execute(
            "SELECT key, outcome IS NOT NULL, model, code FROM ask WHERE key IN "
            f"({','.join('?' * len(keys))})",
            tuple(keys),
        ).fetchall()
        with self._db.reading():
            return {
                key: AskState(bool(has_outcome), model, None if code is None else FailureCode(code))
                for key, has_outcome, model, code in found
            }

    def ask(self, job: int, asks: Mapping[bytes, str]) -> None:
        """Expect the outcomes of content keys from a job; `asks` maps them to the job's question ids."""
        rows = [(key, job, question, None, None, None) for key, question in asks.items()]
        self._db.executemany(ASK, rows)

    def settle(self, key: bytes, outcome: Answer | Failure, model: str | None = None) -> None:
        """Set a question's outcome without a job, also over an earlier outcome."""
        self._db.execute(ASK, (key, None, None, outcome.model_dump_json(), _code(outcome), model))

    def record(self, results: Iterable[Result], jobs: Sequence[int]) -> None:
        """Set the outcomes from the records of open jobs. Questions missing in a record become failures."""
        self._db.execute("DELETE FROM got")
        self._db.executemany(
            "INSERT INTO got VALUES (?, ?, ?, ?, ?)",
            [
                (one.job, one.question, one.outcome.model_dump_json(), _code(one.outcome), one.model)
                for one in results
            ],
        )
        self._db.execute(
            """UPDATE ask SET outcome = got.outcome, code = got.code, model = got.model FROM got
            WHERE ask.outcome IS NULL AND ask.job = got.job
            AND (ask.question = got.question OR got.question = '*')"""
        )
        self._db.execute(
            "UPDATE ask SET outcome = ?, code = ? WHERE outcome IS NULL AND job IN "
            f"({','.join('?' * len(jobs))})",
            (LEFT_OUT.model_dump_json(), LEFT_OUT.code, *jobs),
        )


def _code(outcome: Answer | Failure) -> FailureCode | None:
    return outcome.code if isinstance(outcome, Failure) else None
