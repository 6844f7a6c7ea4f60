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


class Asks:
    """What is written here becomes durable with the ledger's transaction around it."""

    def __init__(self, db: Connection) -> None:
        self._db = db

    def find(self, key: bytes) -> tuple[bool, str | None, FailureCode | None] | None:
        """(has an outcome, the model it is of, the failure's code); None for a key that was never asked."""
        found = self._db.execute(
            "SELECT outcome IS NOT NULL, model, code FROM ask WHERE key = ?", (key,)
        ).fetchone()
        if found is None:
            return None
        with self._db.reading():
            return bool(found[0]), found[1], None if found[2] is None else FailureCode(found[2])

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
