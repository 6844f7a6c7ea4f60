"""The ledger: rows, content keys and outcomes, in transactions that a crash leaves whole."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from contract.answer import Answer
from contract.failure import Failure, FailureCode
from contract.job import ImagePath, Question
from producer.database import LedgerDamagedError
from producer.ledger import (
    LEDGER,
    FedRow,
    FileDigest,
    JobState,
    Ledger,
    LedgerError,
    LedgerQuestion,
    NewJob,
    OpenJob,
    Result,
)
from producer.rows import Row

FAILED = Failure(code=FailureCode.IMAGE_BROKEN, message="It is broken.")


def answer(text: str) -> Answer:
    return Answer(
        text=text, finish_reason="stop", prompt_tokens=9, completion_tokens=3, score=-1, mean_log_prob=-1
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "run", create=True) as made:
        yield made


def plan(ledger: Ledger, *ids: str, questions: int = 1) -> None:
    with ledger.new_rows() as rows:
        for one in ids:
            rows.add(Row(id=one, name=one, image=ImagePath.of(f"/{one}"), columns={"n": len(one)}), questions)


def feed(ledger: Ledger, position: int, index: int, *keys: bytes, first: int = 0) -> None:
    """Send what the row asks as one job; keys that are known are not asked again."""
    with ledger.transaction():
        asked = [LedgerQuestion(n, f"q{n}", f"What {n}?", key) for n, key in enumerate(keys, start=first)]
        known = ledger.asks.known(keys)
        new = {one.key: one.id for one in asked if one.key not in known}
        jobs = [NewJob(index, f'"job {index}"', (), new)] if new else []
        waiting = sum(key not in known or not known[key].has_outcome for key in keys)
        ledger.feed_row(FedRow(position, asked, {}, jobs, waiting))


def record(ledger: Ledger, index: int, *outcomes: Answer | Failure, first: int = 0) -> list[int]:
    results = [Result(index, f"q{n}", one, "m") for n, one in enumerate(outcomes, start=first)]
    with ledger.transaction():
        return ledger.record(results, [index])


def texts(ledger: Ledger) -> list[tuple[str, list[str]]]:
    return [
        (
            row.id,
            [
                one.outcome.text if isinstance(one.outcome, Answer) else one.outcome.code
                for one in row.answers
            ],
        )
        for row in ledger.completed(0)[0]
    ]


def test_rows_are_complete_when_every_question_has_an_outcome(ledger: Ledger) -> None:
    plan(ledger, "a", "b", questions=2)
    assert [(one.position, one.row.id) for one in ledger.next_rows(9)] == [(0, "a"), (1, "b")]
    feed(ledger, 0, 0, b"k1", b"k2")
    feed(ledger, 1, 1, b"k3", b"k4")
    assert ledger.next_rows(9) == []
    assert ledger.is_fed()
    assert record(ledger, 1, answer("three"), FAILED) == [1]
    assert record(ledger, 1, answer("again"), answer("again")) == []
    assert texts(ledger) == [("b", ["three", "image_broken"])]
    record(ledger, 0, answer("one"), answer("two"))
    assert texts(ledger) == [("b", ["three", "image_broken"]), ("a", ["one", "two"])]
    assert [row.id for row in ledger.in_order()] == ["a", "b"]
    assert (ledger.failures(), ledger.answered_questions()) == ({"image_broken": 1}, 3)
    assert not ledger.has_open_jobs()


def test_equal_questions_are_asked_once_and_answer_every_row(ledger: Ledger) -> None:
    plan(ledger, "a", "b", "c")
    feed(ledger, 0, 0, b"same")
    feed(ledger, 1, 1, b"same")
    record(ledger, 0, answer("both"))
    feed(ledger, 2, 1, b"same")
    assert texts(ledger) == [("a", ["both"]), ("b", ["both"]), ("c", ["both"])]
    assert ledger.jobs.next_index() == 1


def test_what_is_asked_again_answers_the_rows_that_shared_it(ledger: Ledger) -> None:
    plan(ledger, "a", "b")
    feed(ledger, 0, 0, b"same")
    record(ledger, 0, FAILED)
    with ledger.transaction():
        again = NewJob(1, '"job 1"', (), {b"same": "q0"})
        ledger.feed_row(FedRow(1, [LedgerQuestion(0, "q0", "What 0?", b"same")], {}, [again], 1))
    assert ledger.asks.known([b"same"]) == {b"same": (False, None, None)}
    record(ledger, 1, answer("at last"))
    assert texts(ledger) == [("a", ["at last"]), ("b", ["at last"])]


def test_a_question_that_nobody_asks_is_a_bug(ledger: Ledger) -> None:
    """And not a row that is complete without it."""
    plan(ledger, "a")
    with pytest.raises(sqlite3.IntegrityError), ledger.transaction():
        ledger.feed_row(FedRow(0, [LedgerQuestion(0, "q0", "What 0?", b"never asked")], {}, [], 0))
    assert texts(ledger) == []


def test_answers_outlive_a_new_plan(ledger: Ledger) -> None:
    plan(ledger, "a")
    feed(ledger, 0, 0, b"a")
    record(ledger, 0, answer("known"))
    plan(ledger, "b", "a")
    assert ledger.rows() == 2
    assert texts(ledger) == []
    assert ledger.asks.known([b"a"]) == {b"a": (True, "m", None)}
    feed(ledger, 1, 1, b"a")
    feed(ledger, 0, 1, b"b")
    assert texts(ledger) == [("a", ["known"])]


def test_what_builds_on_answers_is_due_when_they_are_there(ledger: Ledger) -> None:
    plan(ledger, "a", "b", questions=2)
    feed(ledger, 0, 0, b"first")
    assert not ledger.is_fed()
    assert [one.position for one in ledger.next_rows(9)] == [1]
    record(ledger, 0, answer("a dog"))
    assert [one.position for one in ledger.next_rows(9)] == [0, 1]
    assert ledger.outcomes(0) == {"q0": answer("a dog")}
    feed(ledger, 0, 1, b"second", first=1)
    assert texts(ledger) == []
    record(ledger, 1, answer("brown"), first=1)
    assert texts(ledger) == [("a", ["a dog", "brown"])]


def test_a_record_that_leaves_a_question_out(ledger: Ledger) -> None:
    plan(ledger, "a", questions=2)
    feed(ledger, 0, 0, b"1", b"2")
    record(ledger, 0, answer("one"))
    assert texts(ledger) == [("a", ["one", "internal_error"])]


def test_one_failure_for_every_question_of_a_job(ledger: Ledger) -> None:
    plan(ledger, "a", questions=2)
    feed(ledger, 0, 0, b"1", b"2")
    with ledger.transaction():
        ledger.record([Result(0, "*", FAILED, "m")], [0])
    assert texts(ledger) == [("a", ["image_broken", "image_broken"])]


def test_failures_are_due_again(ledger: Ledger) -> None:
    plan(ledger, "a", "b", questions=2)
    feed(ledger, 0, 0, b"1", b"2")
    feed(ledger, 1, 1, b"3", b"4")
    record(ledger, 0, answer("one"), FAILED)
    record(ledger, 1, answer("three"), answer("four"))
    with ledger.transaction():
        assert ledger.retries.ask_failed(["deadline_exceeded"]) == 0
        assert ledger.retries.ask_failed(["image_broken"]) == 1
    assert [one.position for one in ledger.next_rows(9)] == [0]
    assert ledger.outcomes(0) == {"q0": answer("one")}
    feed(ledger, 0, 2, b"2", first=1)
    record(ledger, 2, answer("two"), first=1)
    assert texts(ledger) == [("b", ["three", "four"]), ("a", ["one", "two"])]


def test_what_is_withdrawn_is_due_again(ledger: Ledger) -> None:
    plan(ledger, "a", "b", "c")
    feed(ledger, 0, 0, b"1")
    feed(ledger, 1, 1, b"2")
    record(ledger, 0, answer("one"))
    with ledger.transaction():
        assert ledger.withdraw() == 1
    assert record(ledger, 1, answer("too late")) == []
    assert [one.position for one in ledger.next_rows(9)] == [1, 2]
    assert not ledger.is_fed()


def test_open_jobs_tell_what_a_crash_left_unsure(ledger: Ledger, tmp_path: Path) -> None:
    plan(ledger, "a", "b", "c")
    for position, key in enumerate((b"1", b"2", b"3")):
        feed(ledger, position, position, key)
    with ledger.transaction():
        ledger.jobs.mark_sent([0, 1])
    record(ledger, 0, answer("one"))
    ledger.close()
    with Ledger(tmp_path / "run") as again:
        assert again.jobs.open() == [
            OpenJob(1, JobState.SENT, '"job 1"'),
            OpenJob(2, JobState.SENDING, '"job 2"'),
        ]
        assert (again.jobs.message(0), again.jobs.message(1)) == (None, '"job 1"')


def test_a_plan_that_fails_changes_nothing(ledger: Ledger) -> None:
    plan(ledger, "a")
    with pytest.raises(LedgerError, match=r'^Row 3: the id "b" is that of an earlier row \(row 1\)'):
        plan(ledger, "b", "c", "b")
    with pytest.raises(LedgerError, match=r'^Row 602: the id "7" is that of an earlier row \(row 8\)'):
        plan(ledger, *map(str, range(601)), "7", "8")
    assert [one.row.id for one in ledger.next_rows(9)] == ["a"]
    assert ledger.rows() == 1


def test_every_name_survives(ledger: Ledger) -> None:
    names = ["a b.png", "\u00e9\U0001f642", "\udcff\udc80.png", "new\nline", "'; DROP TABLE row; --"]
    with ledger.new_rows() as rows:
        for name in names:
            questions = (Question(id=name.encode("utf-8", "replace").decode(), messages="What?"),)
            rows.add(Row(id=name, name=name, image=ImagePath.of(f"/{name}"), questions=questions), 1)
    found = [one.row for one in ledger.next_rows(9)]
    assert [row.id for row in found] == names
    assert [row.name for row in found] == names
    assert [row.image for row in found] == [ImagePath.of(f"/{name}") for name in names]


def test_digests_of_files_are_kept(ledger: Ledger) -> None:
    with ledger.transaction():
        ledger.keep_file_digests({b"/\xff.png": FileDigest(7, 10**18, b"digest")})
    assert ledger.file_digest(b"/\xff.png") == FileDigest(7, 10**18, b"digest")
    assert ledger.file_digest(b"/other") is None


def test_two_processes_see_each_other(ledger: Ledger, tmp_path: Path) -> None:
    plan(ledger, "a")
    feed(ledger, 0, 0, b"1")
    with Ledger(tmp_path / "run") as collector:
        record(collector, 0, answer("one"))
    with Ledger(tmp_path / "run", read_only=True) as reader:
        assert texts(reader) == [("a", ["one"])]
    assert texts(ledger) == [("a", ["one"])]


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="holds no run"):
        Ledger(tmp_path)
    (tmp_path / "ledger.sqlite").write_bytes(b"hello" * 1000)
    with pytest.raises(LedgerError, match=r"is damaged \(file is not a database\).*captionmill repair"):
        Ledger(tmp_path)


def test_a_ledger_of_another_version_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    ledger.close()
    with closing(sqlite3.connect(tmp_path / "run" / LEDGER)) as db:
        db.execute("PRAGMA user_version = 1")
        db.execute("ALTER TABLE file ADD COLUMN inode INTEGER")
    with pytest.raises(LedgerError, match="has version 1, and this program reads 3: go on with the release"):
        Ledger(tmp_path / "run")


def test_a_version_that_the_tables_belie_is_damage(ledger: Ledger) -> None:
    with closing(sqlite3.connect(ledger.folder / LEDGER)) as changed:
        changed.execute("PRAGMA user_version = 77")
    with pytest.raises(LedgerDamagedError, match="its tables are those of version 3, not 77"):
        Ledger(ledger.folder)
