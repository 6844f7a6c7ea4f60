"""What was ever asked, by content key, and its outcomes: the ledger's table `ask`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from contract.answer import Answer
from contract.failure import Failure, FailureCode
from producer.database import Connection

ASK: Final = """
INSERT INTO ask (key, job, question, outcome, code) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET job = excluded.job, question = excluded.question,
    outcome = excluded.outcome, code = excluded.code, model = NULL
"""
"""Ask what was never asked, or ask it again: questions that share the ask keep it."""
LEFT_OUT: Final = Failure(
    code=FailureCode.INTERNAL_ERROR, message="The worker's record leaves this question out."
)


class Result(NamedTuple):
    """The outcome of one question of a job; question "*" stands for all of them."""

    job: int
    question: str
    outcome: Answer | Failure
    model: str | None


class AskState(NamedTuple):
    """What is known of a question that was asked before."""

    has_outcome: bool
    model: str | None
    """Model id of the outcome."""
    code: FailureCode | None
    """Failure code of the outcome."""


class Asks:
    """What is written here becomes durable with the ledger's transaction around it."""

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
        """Have a job bring the outcomes of content keys; `asks` maps them to the job's question ids."""
        self._db.executemany(ASK, [(key, job, question, None, None) for key, question in asks.items()])

    def settle(self, key: bytes, outcome: Answer | Failure, model: str | None = None) -> None:
        """Give a question an outcome that no worker was asked for, over one that is there."""
        self._db.execute(ASK, (key, None, None, outcome.model_dump_json(), _code(outcome)))
        if model is not None:
            self._db.execute("UPDATE ask SET model = ? WHERE key = ?", (model, key))

    def record(self, results: Iterable[Result], jobs: Sequence[int]) -> None:
        """Note what open jobs brought. A question that they leave out ends as a failure."""
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
