"""A run in its folder: fed within a window, collected once, continued, extended, cancelled, retried."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from contract.answer import Answer
from contract.failure import Failure, FailureCode
from contract.job import (
    INLINE_MAX_BYTES,
    GenerationParameters,
    ImageInline,
    ImagePath,
    ImageStored,
    ImageUrl,
    Job,
    Question,
)
from contract.store import (
    SUSPECTED,
    attempts_key,
    cancelled_key,
    done_key,
    holders_key,
    image_key,
    results_key,
)
from producer.collect import WorkersCrashError
from producer.done_bits import PIECE_BITS
from producer.first_jobs import FIRST, FirstJobsFailError
from producer.ledger import LedgerError
from producer.model_choice import LiveModelError
from producer.planner import Planner
from producer.questions import Prompt, read_prompts
from producer.queue import BrokerAwayError
from producer.rows import Embedded, Row
from producer.run import Round
from producer.run_folder import RunFolder
from producer.sources import SourceError, SourceOptions
from producer.submission import Submission
from producer.window import MOST_TOGETHER, TOGETHER_S
from producer.work import work_on
from tests.support.producer_driver import Rows, Workers, answer, lines, texts, write
from tests.support.workers import announce

JOBS = 7


def numbered(count: int = JOBS, first: int = 0) -> list[Row]:
    return [
        Row(id=f"row {n}", name=f"{n}.png", image=ImagePath.of(f"/pictures/{n}.png"))
        for n in range(first, first + count)
    ]


def submission(*questions: str, **fields: Any) -> Submission:
    return Submission(sources=("rows",), prompts=read_prompts(questions or ("What?",), None, None), **fields)


def shipping(images: Path, **fields: Any) -> Submission:
    return submission(ship=True, options=SourceOptions(image_root=str(images)), **fields)


def plan(folder: RunFolder, rows: Sequence[Row], asked: Submission | None = None) -> None:
    Planner(folder, asked or submission(), Rows(rows)).plan()


def drive(
    folder: RunFolder, connection: redis.Redis, workers: Workers, *, window: int = 100, quiet_s: float = 2.0
) -> list[Round]:
    with work_on(folder, connection, workers, feed=True, collect=True, window=window) as work:
        work.run.reconciler.quiet_s = quiet_s
        rounds = list(work.run.rounds())
        work.finish(keep_done_s=60)
    return rounds


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    made = RunFolder(tmp_path / "out", create=True)
    yield made
    made.close()


def test_every_row_is_answered_and_the_store_is_freed(folder: RunFolder, connection: redis.Redis) -> None:
    plan(folder, numbered(), submission("What?", "fail question_refused"))
    workers = Workers(connection)
    rounds = drive(folder, connection, workers)
    assert texts(folder.path) == {f"row {n}": ["What? 128", "question_refused"] for n in range(JOBS)}
    assert lines(folder.path)[0]["model"] == "m"
    assert workers.sent == list(range(JOBS))
    assert (rounds[-1].complete, rounds[-1].in_flight, rounds[-1].failed_questions) == (JOBS, 0, JOBS)
    assert rounds[-1].tokens == 3 * JOBS
    assert folder.finished
    assert not connection.exists(results_key(folder.run))
    assert 0 < connection.ttl(done_key(folder.run)) <= 60


def test_jobs_stay_within_the_window(folder: RunFolder, connection: redis.Redis) -> None:
    plan(folder, numbered())
    workers = Workers(connection)
    drive(folder, connection, workers, window=3)
    assert workers.sent == list(range(JOBS))
    assert workers.most_unanswered == 3


def test_lost_jobs_are_sent_again(folder: RunFolder, connection: redis.Redis) -> None:
    plan(folder, numbered())
    workers = Workers(connection, loses=lambda index, attempt: index in (2, 6) and attempt < 3)
    rounds = drive(folder, connection, workers, window=4, quiet_s=0.0)
    assert sorted(workers.sent) == [0, 1, 2, 2, 2, 3, 4, 5, 6, 6, 6]
    assert rounds[-1].sent_again == 4
    assert len(texts(folder.path)) == JOBS


def test_what_was_about_to_be_sent_is_sent_first(folder: RunFolder, connection: redis.Redis) -> None:
    """Others' jobs in the queue, so that nothing looks lost."""
    plan(folder, numbered(3))

    class Away(Workers):
        def submit(self, *_: Any, **__: Any) -> None:
            raise BrokerAwayError

        def queued(self) -> int:
            return 1

    with work_on(folder, connection, Away(connection), feed=True, collect=True) as work:
        rounds = work.run.rounds()
        with pytest.raises(BrokerAwayError):
            next(rounds)
    workers = Workers(connection)
    workers.queued = lambda: 1  # type: ignore[method-assign]
    drive(folder, connection, workers)
    assert workers.sent == [0, 1, 2]


def test_jobs_of_dead_workers_are_sent_again_though_others_are_queued(
    folder: RunFolder, connection: redis.Redis
) -> None:
    """A worker took jobs and is heard of no more: one with an old report, one without, one that lives."""
    plan(folder, numbered(4))
    announce(connection, "silent", "m", age_s=100)
    announce(connection, "live", "m")
    workers = Workers(connection, loses=lambda _, attempt: attempt == 1)
    workers.queued = lambda: 1  # type: ignore[method-assign]
    for index, worker in enumerate(("silent", "gone", "live", SUSPECTED)):
        connection.hset(holders_key(folder.run), str(index), worker)
    with work_on(folder, connection, workers, feed=True, collect=True) as work:
        work.run.reconciler.quiet_s = 0.0
        for round_ in work.run.rounds():
            if round_.sent_again == 2 and round_.complete == 2:
                assert workers.sent == [0, 1, 2, 3, 0, 1]
                break
    connection.hset(holders_key(folder.run), "2", "gone")
    connection.hset(holders_key(folder.run), "3", "gone")
    drive(folder, connection, workers, quiet_s=0.0)
    assert len(texts(folder.path)) == 4


def test_a_run_whose_jobs_kill_every_worker_stops_and_goes_on_later(
    folder: RunFolder, connection: redis.Redis
) -> None:
    plan(folder, numbered(100), submission("fail crashed_worker"))
    workers = Workers(connection)
    connection.hset(attempts_key(folder.run), "77", "3")
    with pytest.raises(WorkersCrashError, match="retry --code crashed_worker"):
        drive(folder, connection, workers, window=8)
    assert len(workers.sent) < 30
    assert connection.exists(cancelled_key(folder.run))
    assert not connection.exists(attempts_key(folder.run), holders_key(folder.run))
    mended = Workers(connection, reply=lambda *_: answer("good"))
    folder.retry(["crashed_worker"], {})
    drive(folder, connection, mended)
    assert set(map(tuple, texts(folder.path).values())) == {("good",)}


def test_some_jobs_that_kill_workers_stop_nothing(folder: RunFolder, connection: redis.Redis) -> None:
    def reply(job: Job, _: Question) -> Answer | Failure:
        return Failure(code=FailureCode.CRASHED_WORKER, message="No.") if job.index % 3 else answer("good")

    plan(folder, numbered(100))
    drive(folder, connection, Workers(connection, reply=reply), window=8)
    assert sum(found == ["crashed_worker"] for found in texts(folder.path).values()) == 66


def test_quick_jobs_go_several_in_a_message_and_the_last_ones_alone(
    folder: RunFolder, connection: redis.Redis
) -> None:
    plan(folder, numbered(2000))
    announce(connection, "w", "m", slots=4)
    workers = Workers(connection)
    drive(folder, connection, workers, window=64)
    assert workers.together[0] == 1
    assert max(workers.together) == MOST_TOGETHER
    assert workers.together[-1] == 1
    assert sorted(workers.sent) == list(range(2000))


def test_slow_jobs_go_one_in_a_message(folder: RunFolder, connection: redis.Redis) -> None:
    plan(folder, numbered(2000))
    announce(connection, "w", "m", slots=4)
    workers = Workers(connection, seconds=TOGETHER_S)
    drive(folder, connection, workers, window=64)
    assert set(workers.together) == {1}


def test_a_record_that_is_nowhere_is_asked_for_again(folder: RunFolder, connection: redis.Redis) -> None:
    """As when the folder is restored from a copy: the store knows a job as done."""
    plan(folder, numbered(2))

    class Deduplicating(Workers):
        def submit(self, jobs: Sequence[tuple[str, str]], *, together: int = 1) -> None:
            fresh = [
                job
                for job in jobs
                if not connection.getbit(done_key(folder.run), Job.model_validate_json(job[1]).index)
            ]
            super().submit(fresh, together=together)

    connection.setbit(done_key(folder.run), 1, 1)
    workers = Deduplicating(connection)
    drive(folder, connection, workers, quiet_s=0.0)
    assert workers.sent == [0, 1]
    assert len(texts(folder.path)) == 2


def test_a_superset_costs_only_what_is_new(folder: RunFolder, connection: redis.Redis) -> None:
    plan(folder, numbered(3))
    drive(folder, connection, Workers(connection))
    plan(folder, numbered(5))
    again = Workers(connection)
    drive(folder, connection, again)
    assert [job.image for job in again.jobs] == [ImagePath.of(f"/pictures/{n}.png") for n in (3, 4)]
    assert list(texts(folder.path)) == [f"row {n}" for n in range(5)]


@pytest.mark.parametrize(
    ("changed", "asked_again"),
    [
        (submission("What?", "Why?"), ["Why?"]),
        (submission("Who?"), ["Who?"]),
        (submission(parameters=GenerationParameters(num_beams=2)), ["What?"]),
        (submission(detail="low"), ["What?"]),
        (submission(model="other"), ["What?"]),
        (submission(model="m"), []),
        (submission(), []),
    ],
    ids=["a question more", "another question", "parameters", "detail", "model", "same model", "nothing"],
)
def test_what_decides_the_answer_is_asked_again_when_it_changes(
    folder: RunFolder, connection: redis.Redis, changed: Submission, asked_again: list[str]
) -> None:
    plan(folder, numbered(2))
    drive(folder, connection, Workers(connection))
    plan(folder, numbered(2), changed)
    workers = Workers(connection, model=changed.model or "m")
    drive(folder, connection, workers)
    assert [[one.messages for one in job.questions] for job in workers.jobs] == [asked_again] * (
        2 * bool(asked_again)
    )
    assert {line["model"] for line in lines(folder.path)} == {changed.model or "m"}
    assert [len(line["answers"]) for line in lines(folder.path)] == [len(changed.prompts)] * 2


def test_equal_bytes_are_answered_once(folder: RunFolder, connection: redis.Redis, images: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"one")):
        (images / f"{name}.png").write_bytes(content)
    rows = [Row(id=name, name=name, image=ImagePath.of(images / f"{name}.png")) for name in "abc"]
    plan(folder, rows)
    workers = Workers(connection)
    drive(folder, connection, workers)
    assert len(workers.jobs) == 2
    assert len(texts(folder.path)) == 3
    # Touched, it is read again; changed, it is asked about again.
    (images / "a.png").write_bytes(b"ONE")
    plan(folder, rows)
    changed = Workers(connection)
    drive(folder, connection, changed)
    assert [job.image for job in changed.jobs] == [ImagePath.of(images / "a.png")]


def test_urls_and_what_is_out_of_reach_go_by_name(folder: RunFolder, connection: redis.Redis) -> None:
    rows = [
        Row(id="1", name="1", image=ImageUrl(url="https://example.org/a.png")),
        Row(id="2", name="2", image=ImageUrl(url="https://example.org/a.png")),
        Row(id="3", name="3", image=ImagePath.of("/nowhere/a.png")),
        Row(id="4", name="4", image=None, text_only=True),
        Row(id="5", name="5", image=None, questions=(Question(id="own", messages="Mine?"),), text_only=True),
    ]
    plan(folder, rows)
    workers = Workers(connection)
    drive(folder, connection, workers)
    assert [job.image for job in workers.jobs] == [rows[0].image, rows[2].image, None, None]
    assert texts(folder.path)["5"] == ["Mine? 128"]


def test_images_travel_when_workers_do_not_see_them(
    folder: RunFolder, connection: redis.Redis, images: Path
) -> None:
    small, large = b"s" * 100, b"l" * (INLINE_MAX_BYTES + 1)
    (images / "small").write_bytes(small)
    (images / "large").write_bytes(large)
    rows = [Row(id=name, name=name, image=ImagePath.of(images / name)) for name in ("small", "large")]
    plan(folder, rows, shipping(images))
    workers = Workers(connection)
    stored: list[bytes | None] = []

    def look(job: Job) -> None:
        if isinstance(job.image, ImageStored):
            found: Any = connection.get(image_key(job.run, job.image.sha256))
            stored.append(found)

    workers.before_answer = look
    drive(folder, connection, workers)
    sha256 = hashlib.sha256(large).hexdigest()
    assert [job.image for job in workers.jobs] == [ImageInline.of(small), ImageStored(sha256=sha256)]
    assert stored == [large]


def test_uploads_stay_within_their_budget_and_are_released(
    folder: RunFolder, connection: redis.Redis, images: Path
) -> None:
    rows = []
    for number in range(9):
        (images / str(number)).write_bytes(bytes([number]) * 50_000)
        rows.append(Row(id=str(number), name=None, image=ImagePath.of(images / str(number))))
    plan(folder, rows, shipping(images, upload_budget_bytes=120_000))
    workers = Workers(connection)
    most = 0

    def look(_: Job) -> None:
        nonlocal most
        most = max(most, len(connection.keys("*:image:*")))

    workers.before_answer = look
    drive(folder, connection, workers)
    assert len(texts(folder.path)) == 9
    assert most == 2
    assert connection.keys("*:image:*") == []


def test_images_embedded_in_the_source(folder: RunFolder, connection: redis.Redis) -> None:
    rows = [Row(id=str(n), name=None, image=Embedded(place=n)) for n in range(3)]
    plan(folder, rows)
    embedded = [b"one", b"two", b"one"]
    workers = Workers(connection)
    with work_on(folder, connection, workers, feed=True, collect=True, source=Rows(rows, embedded)) as work:
        list(work.run.rounds())
        work.finish(keep_done_s=1)
    assert [job.image for job in workers.jobs] == [ImageInline.of(b"one"), ImageInline.of(b"two")]
    assert len(texts(folder.path)) == 3


def test_answers_that_questions_build_on(folder: RunFolder, connection: redis.Redis) -> None:
    asked = submission("What?", "Is {answer:q1} right?", "And {answer:q2}, {answer:q1}?")
    plan(folder, numbered(2), asked)
    workers = Workers(connection)
    drive(folder, connection, workers)
    second = "Is What? 128 right?"
    assert texts(folder.path) == {
        f"row {n}": ["What? 128", f"{second} 128", f"And {second} 128, What? 128? 128"] for n in range(2)
    }
    assert len(workers.jobs) == 6


def test_what_builds_on_a_failure_fails(folder: RunFolder, connection: redis.Redis) -> None:
    plan(folder, numbered(1), submission("fail image_broken", "Is {answer:q1} right?", "What?"))
    drive(folder, connection, Workers(connection))
    assert texts(folder.path) == {"row 0": ["image_broken", "dependency_failed", "What? 128"]}


def test_rows_that_cannot_be_asked(folder: RunFolder, connection: redis.Redis) -> None:
    refusal = Failure(code=FailureCode.INVALID_JOB, message="best_of is not offered.")
    plan(folder, [Row(id="bad", name=None, image=None, refusal=refusal), *numbered(1)])
    workers = Workers(connection)
    drive(folder, connection, workers)
    assert texts(folder.path) == {"bad": ["invalid_job"], "row 0": ["What? 128"]}
    assert len(workers.jobs) == 1


def test_parameters_of_rows_and_prompts(folder: RunFolder, connection: redis.Redis) -> None:
    prompts = (
        Prompt(id="a", text="A?"),
        Prompt(id="b", text="B?", parameters={"max_new_tokens": 5}),
        Prompt(id="c", text="C?", choices=("yes", "no")),
    )
    own = Row(id="own", name=None, image=None, parameters={"max_new_tokens": 7}, text_only=True)
    rows = [*numbered(1), own]
    asked = Submission(sources=("x",), prompts=prompts, parameters=GenerationParameters(max_new_tokens=9))
    plan(folder, rows, asked)
    workers = Workers(connection)
    drive(folder, connection, workers)
    assert texts(folder.path) == {"row 0": ["A? 9", "B? 5", "C? 9"], "own": ["A? 7", "B? 7", "C? 7"]}
    assert [len(job.questions) for job in workers.jobs] == [2, 1, 3]


def test_failures_are_tried_again_with_other_parameters(folder: RunFolder, connection: redis.Redis) -> None:
    rows = [
        Row(id="good", name=None, image=None),
        Row(
            id="bad", name=None, image=None, questions=(Question(id="q1", messages="fail deadline_exceeded"),)
        ),
        Row(id="broken", name=None, image=None, questions=(Question(id="q1", messages="fail image_broken"),)),
    ]
    plan(folder, rows)
    drive(folder, connection, Workers(connection))
    assert folder.retry(["deadline_exceeded"], {"max_new_tokens": 5}) == 1
    assert not folder.finished
    better = Workers(connection, reply=lambda job, _: answer(f"now {job.parameters.max_new_tokens}"))
    drive(folder, connection, better)
    assert [job.questions[0].messages for job in better.jobs] == ["fail deadline_exceeded"]
    assert texts(folder.path) == {"good": ["What? 128"], "bad": ["now 5"], "broken": ["image_broken"]}
    assert folder.retry(["deadline_exceeded"], {}) == 0


def interrupt(folder: RunFolder, connection: redis.Redis, workers: Workers, *, after: int) -> None:
    """Leave the run in the middle."""
    with work_on(folder, connection, workers, feed=True, collect=True, window=2) as work:
        for round_ in work.run.rounds():
            if round_.complete >= after:
                break


def test_a_run_goes_on_where_it_was_left(folder: RunFolder, connection: redis.Redis) -> None:
    plan(folder, numbered())
    first = Workers(connection)
    interrupt(folder, connection, first, after=3)
    done = len(lines(folder.path))
    second = Workers(connection)
    drive(folder, connection, second)
    assert set(first.sent) & set(second.sent) == set()
    assert JOBS > done >= 3
    assert len(texts(folder.path)) == JOBS


def test_a_cancelled_run_can_go_on(folder: RunFolder, connection: redis.Redis) -> None:
    plan(folder, numbered())
    first = Workers(connection, loses=lambda index, _: index >= 3)
    with work_on(folder, connection, first, feed=True, collect=True, window=5) as work:
        for round_ in work.run.rounds():
            if round_.complete == 3:
                break
    old = folder.run
    assert folder.cancel(connection) == len(first.sent) - 3
    assert connection.exists(cancelled_key(old))
    assert folder.run != old
    write(connection, next(job for job in first.jobs if job.index == 4), lambda *_: answer("too late"))
    second = Workers(connection)
    drive(folder, connection, second)
    assert texts(folder.path) == {f"row {n}": ["What? 128"] for n in range(JOBS)}
    assert len(second.sent) == JOBS - 3


def test_a_submission_takes_over_what_is_under_way(folder: RunFolder, connection: redis.Redis) -> None:
    plan(folder, numbered(3))
    first = Workers(connection, loses=lambda *_: True)
    with work_on(folder, connection, first, feed=True, collect=True) as work:
        next(work.run.rounds())
    assert first.sent == [0, 1, 2]
    plan(folder, numbered(5, first=1))
    second = Workers(connection)
    for job in first.jobs:
        write(connection, job)
    drive(folder, connection, second)
    assert second.sent == [3, 4, 5]
    assert list(texts(folder.path)) == [f"row {n}" for n in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("role", ["feeder", "collector"])
def test_one_process_has_a_role(folder: RunFolder, role: Any) -> None:
    hold = (
        "import sys; from pathlib import Path; from producer.run_folder import RunFolder\n"
        f"with RunFolder(Path({str(folder.path)!r})).role({role!r}):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", hold],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(LedgerError, match="Another process"), folder.role(role):
            pass
    finally:
        process.stdin.close()
        process.wait()
    with folder.role(role):
        pass


def test_feeding_and_collecting_apart(folder: RunFolder, connection: redis.Redis) -> None:
    plan(folder, numbered())
    workers = Workers(connection)
    with work_on(folder, connection, workers, feed=True, collect=False, window=3) as work:
        list(work.run.rounds())
    assert workers.sent == list(range(JOBS))
    assert not (folder.path / "answers.jsonl").exists()
    other = RunFolder(folder.path)
    with work_on(other, connection, workers, feed=False, collect=True) as work:
        list(work.run.rounds())
        work.finish(keep_done_s=1)
    other.close()
    assert len(texts(folder.path)) == JOBS


def test_a_process_that_only_feeds_sees_what_is_done(folder: RunFolder, connection: redis.Redis) -> None:
    """Of 1,100 jobs in flight, at the ends of bytes and of the pieces that are fetched."""
    plan(folder, numbered(1101))
    done = {0, 7, 8, PIECE_BITS - 1, PIECE_BITS, 2 * PIECE_BITS + 1}
    workers = Workers(connection, loses=lambda index, _attempt: index not in done)
    with work_on(folder, connection, workers, feed=True, collect=False, window=1100) as work:
        list(work.run.rounds())
        assert set(work.run.in_flight) == set(range(1101)) - done


def test_nothing_is_sent_while_the_store_is_full(folder: RunFolder, connection: redis.Redis) -> None:
    plan(folder, numbered())
    workers = Workers(connection)
    used = connection.info("memory")["used_memory"]
    connection.config_set("maxmemory", int(used * 1.1))
    try:
        with work_on(folder, connection, workers, feed=True, collect=True) as work:
            round_ = next(work.run.rounds())
    finally:
        connection.config_set("maxmemory", 0)
    assert workers.sent == []
    assert round_.held is not None
    assert "the store uses" in round_.held


def test_a_plan_that_fails_leaves_the_run_as_it_was(folder: RunFolder, connection: redis.Redis) -> None:
    plan(folder, numbered(2))

    def rows() -> Iterator[Row]:
        yield from numbered(1)
        raise SourceError("line 2: not JSON")

    with pytest.raises(SourceError, match="line 2"):
        Planner(folder, submission("Who?"), Rows(rows)).plan()
    with pytest.raises(SourceError, match='id "row 0" is that of an earlier row'):
        plan(folder, [*numbered(2), *numbered(1)])
    with pytest.raises(SourceError, match="has no rows"):
        plan(folder, [])
    drive(folder, connection, Workers(connection))
    assert texts(folder.path) == {f"row {n}": ["What? 128"] for n in range(2)}


BAD_ROWS: list[tuple[Row, Submission, str]] = [
    (Row(id="1", name=None, image=None), Submission(sources=("x",)), "has no question"),
    (
        Row(id="1", name=None, image=None, parameters={"max_new_tokens": 0}),
        submission(),
        "max_new_tokens: Input should be greater",
    ),
    (
        Row(
            id="1",
            name=None,
            image=ImagePath.of("/a"),
            questions=(
                Question.model_validate({"id": "q", "messages": [{"role": "user", "content": "Hi"}]}),
            ),
        ),
        submission(),
        "places none",
    ),
    (
        Row(id="1", name=None, image=None, questions=(Question(id="q", messages="A?", choices=("a", "b")),)),
        submission(parameters=GenerationParameters(num_beams=2)),
        "no parameter but length_penalty and visual_tokens decides",
    ),
]


@pytest.mark.parametrize(("row", "asked", "complaint"), BAD_ROWS)
def test_rows_that_no_job_can_ask_are_refused(
    folder: RunFolder, row: Row, asked: Submission, complaint: str
) -> None:
    with pytest.raises(SourceError, match=complaint):
        plan(folder, [row], asked)


def test_workers_with_different_models_need_a_choice(folder: RunFolder, connection: redis.Redis) -> None:
    plan(folder, numbered(1))
    announce(connection, "one", "model 1")
    announce(connection, "two", "model 2")
    with pytest.raises(LiveModelError, match=r"different models \(model 1, model 2\); name one with --model"):
        drive(folder, connection, Workers(connection))
    announce(connection, "one", "model 2")
    workers = Workers(connection, model="model 2")
    drive(folder, connection, workers)
    assert workers.jobs[0].model == "model 2"


def fail_first(count: int, code: FailureCode) -> Any:
    def reply(job: Job, _: Question) -> Answer | Failure:
        return Failure(code=code, message="No.") if job.index < count else answer("Yes.")

    return reply


@pytest.mark.parametrize(
    ("count", "code"),
    [
        (FIRST - 1, FailureCode.IMAGE_NOT_ALLOWED),
        (2 * FIRST, FailureCode.IMAGE_BROKEN),
        (2 * FIRST, FailureCode.INTERNAL_ERROR),
    ],
)
def test_a_run_goes_on_after_failures_that_need_not_hit_every_row(
    folder: RunFolder, connection: redis.Redis, count: int, code: FailureCode
) -> None:
    plan(folder, numbered(3 * FIRST))
    drive(folder, connection, Workers(connection, reply=fail_first(count, code)), window=1)
    found = list(texts(folder.path).values())
    assert (found.count([code]), found.count(["Yes."])) == (count, 3 * FIRST - count)


def test_web_images_that_are_gone_stop_no_run(folder: RunFolder, connection: redis.Redis) -> None:
    rows = [
        Row(id=str(n), name=None, image=ImageUrl(url=f"https://a.example/{n}.png")) for n in range(2 * FIRST)
    ]
    plan(folder, rows)
    drive(folder, connection, Workers(connection, reply=fail_first(100, FailureCode.IMAGE_NOT_FOUND)))
    assert folder.ledger.failures() == {"image_not_found": 2 * FIRST}


@pytest.mark.parametrize("window", [100, 4])
def test_a_stopped_run_gets_nothing_of_what_was_under_way(
    folder: RunFolder, connection: redis.Redis, window: int
) -> None:
    """Two questions a row, the second builds on the first: what is due again is both."""
    asked = submission("What?", "Why {answer:q1}?")
    plan(folder, numbered(3 * FIRST), asked)
    workers = Workers(
        connection,
        loses=lambda index, _: index >= FIRST,
        reply=fail_first(FIRST, FailureCode.IMAGE_NOT_ALLOWED),
    )
    old = folder.run
    with pytest.raises(FirstJobsFailError, match="--ship") as stopped:
        drive(folder, connection, workers, window=window)
    assert (stopped.value.code, stopped.value.jobs) == (FailureCode.IMAGE_NOT_ALLOWED, FIRST)
    assert not any(write(connection, job) for job in workers.jobs), "a late record is refused"
    assert folder.run != old
    assert not connection.exists(results_key(old), done_key(old), attempts_key(old), holders_key(old))
    assert (folder.ledger.failures(), folder.ledger.has_open_jobs()) == ({}, False)
    assert lines(folder.path) == lines(folder.path, "failures.jsonl") == []
    drive(folder, connection, Workers(connection))
    assert len(texts(folder.path)) == 3 * FIRST
    assert folder.ledger.failures() == {}
