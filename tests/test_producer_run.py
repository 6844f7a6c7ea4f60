"""A run on disk: collected exactly once whatever crashes, lost jobs sent again, the window kept."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from contract.answer import Answer, JobResult, QuestionResult
from contract.failure import Failure, FailureCode
from contract.job import GenerationParameters, Job, Question
from contract.store import WRITE_ONCE, attempts_key, done_key, results_key
from producer.collect import Collector, answer_line
from producer.run import Run
from producer.run_folder import RunFolder
from producer.sources import Row, SourceError

JOBS = 7


def make_folder(path: Path, jobs: int = JOBS) -> RunFolder:
    questions = (Question(id="q1", messages="What?"), Question(id="q2", messages="Why?"))
    rows = [Row(id=f"row {i}", image=Path(f"/pictures/{i}.png"), questions=questions) for i in range(jobs)]
    return RunFolder.create(path, "r", Path("pictures"), rows, GenerationParameters())


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with make_folder(tmp_path / "out") as made:
        yield made


def result(index: int, **changes: Any) -> JobResult:
    outcomes: list[Answer | Failure] = [
        Answer(
            text=f"It is {index}.",
            finish_reason="stop",
            prompt_tokens=9,
            completion_tokens=3,
            score=-0.5,
            mean_log_prob=-0.5,
        ),
        Failure(code=FailureCode.QUESTION_REFUSED, message="No."),
    ]
    results = tuple(QuestionResult(question=f"q{i}", outcome=one) for i, one in enumerate(outcomes, start=1))
    fields: dict[str, Any] = {"run": "r", "index": index, "worker": "w", "model": "m", "seconds": 0.1}
    return JobResult(**{**fields, "results": results, **changes})


def write(connection: redis.Redis, index: int) -> None:
    keys = [results_key("r"), done_key("r"), attempts_key("r")]
    connection.eval(WRITE_ONCE, 3, *keys, str(index), result(index).model_dump_json())


def on_disk(path: Path) -> list[int]:
    return [json.loads(line)["index"] for line in (path / "answers.jsonl").read_text().splitlines()]


def test_records_become_lines_and_leave_the_store(folder: RunFolder, connection: redis.Redis) -> None:
    for index in (2, 0):
        write(connection, index)
    collector = Collector(connection, folder)
    assert collector.collect(block_ms=1) == [2, 0]
    assert connection.xlen(results_key("r")) == 0
    line = json.loads((folder.path / "answers.jsonl").read_text().splitlines()[0])
    assert line == {
        "index": 2,
        "id": "row 2",
        "image": "/pictures/2.png",
        "model": "m",
        "answers": [
            {
                "question": "q1",
                "prompt": "What?",
                "text": "It is 2.",
                "finish_reason": "stop",
                "prompt_tokens": 9,
                "completion_tokens": 3,
                "score": -0.5,
                "mean_log_prob": -0.5,
                "flags": [],
                "alternatives": [],
                "choices": [],
            },
            {"question": "q2", "prompt": "Why?", "failure": {"code": "question_refused", "message": "No."}},
        ],
    }
    assert (collector.done_jobs, collector.failed_jobs, collector.answered_questions) == (2, 2, 2)
    assert collector.failures == {"question_refused": 2}
    assert collector.collect(block_ms=1) == []


def test_a_failure_for_every_question_and_a_question_left_out(folder: RunFolder) -> None:
    failure = Failure(code=FailureCode.INVALID_JOB, message="It is not valid.")
    every = answer_line(folder.entry(0), result(0, results=(QuestionResult(question="*", outcome=failure),)))
    assert [answer["failure"]["code"] for answer in every["answers"]] == ["invalid_job", "invalid_job"]
    half = answer_line(folder.entry(0), result(0, results=result(0).results[:1]))
    assert half["answers"][0]["text"] == "It is 0."
    assert half["answers"][1]["failure"]["code"] == "internal_error"


def test_records_that_are_known_or_foreign_are_dropped(folder: RunFolder, connection: redis.Redis) -> None:
    for index in (1, JOBS, 1, 5):
        connection.xadd(results_key("r"), {"record": result(index).model_dump_json()})
    assert Collector(connection, folder).collect(block_ms=1) == [1, 5]
    connection.xadd(results_key("r"), {"record": result(5).model_dump_json()})
    assert Collector(connection, folder).collect(block_ms=1) == []
    folder.close()
    assert on_disk(folder.path) == [1, 5]


class CrashError(Exception):
    pass


class CrashingFolder(RunFolder):
    """Dies at one step of the second batch, as a killed process would: nothing is closed or cleaned up."""

    crash_at = ""

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        self._crash_at("before append")
        super().append(lines)
        if self.crash_at == "half a line":
            self._answers.write(b'{"index": 99, "ans')
            self._answers.flush()
        self._crash_at("half a line")
        self._crash_at("before commit")

    def commit(self, stream_id: str) -> None:
        super().commit(stream_id)
        self._crash_at("before trim")

    def _crash_at(self, step: str) -> None:
        if self.crash_at == step:
            raise CrashError


@pytest.mark.parametrize("step", ["before append", "half a line", "before commit", "before trim"])
def test_a_crash_at_any_step_keeps_each_job_once(tmp_path: Path, connection: redis.Redis, step: str) -> None:
    make_folder(tmp_path / "out").close()
    crashing = CrashingFolder(tmp_path / "out")
    collector = Collector(connection, crashing)
    write(connection, 0)
    collector.collect(block_ms=1)
    for index in (1, 2, 3):
        write(connection, index)
    crashing.crash_at = step
    with pytest.raises(CrashError):
        collector.collect(block_ms=1)

    write(connection, 4)
    with RunFolder(tmp_path / "out") as again:
        second = Collector(connection, again)
        known = 4 if step == "before trim" else 1
        assert second.done_jobs == known
        second.collect(block_ms=1)
        assert second.done_jobs == 5
        assert [second.is_done(i) for i in range(JOBS)] == [True] * 5 + [False] * 2
    assert sorted(on_disk(tmp_path / "out")) == [0, 1, 2, 3, 4]


def test_a_store_that_began_again_is_read_from_its_start(folder: RunFolder, connection: redis.Redis) -> None:
    write(connection, 0)
    Collector(connection, folder).collect(block_ms=1)
    connection.flushall()
    connection.xadd(results_key("r"), {"record": result(0).model_dump_json()}, id="5-0")
    connection.xadd(results_key("r"), {"record": result(1).model_dump_json()}, id="6-0")
    assert Collector(connection, folder).collect(block_ms=1) == [1]


def test_an_interrupted_run_leaves_whole_lines(tmp_path: Path) -> None:
    with make_folder(tmp_path / "out") as folder:
        folder.append([{"index": 0, "answers": []}])
        folder.commit("1-0")
        folder.append([{"index": 1, "answers": []}])
    assert on_disk(tmp_path / "out") == [0]


def test_a_folder_that_holds_a_run_is_refused(folder: RunFolder) -> None:
    with pytest.raises(SourceError, match="holds a run already"):
        make_folder(folder.path)


def test_a_bad_row_leaves_no_run(tmp_path: Path) -> None:
    def rows() -> Iterator[Row]:
        yield Row(id="1", image=None, questions=(Question(id="q1", messages="What?"),))
        raise SourceError("line 2: not JSON")

    with pytest.raises(SourceError, match="line 2"):
        RunFolder.create(tmp_path / "out", "r", Path("rows.jsonl"), rows(), GenerationParameters())
    assert not (tmp_path / "out" / "run.json").exists()


class Workers:
    """A queue with workers behind it, which answer a job as soon as it is sent.

    `loses` decides by index and attempt which jobs vanish. Obeys the protocol Queue of producer/run.py.
    """

    def __init__(self, connection: redis.Redis, loses: Callable[[int, int], bool]) -> None:
        self._connection = connection
        self._loses = loses
        self.sent: list[int] = []
        self.most_unanswered = 0

    def submit(self, jobs: Sequence[Job]) -> None:
        length: Any = self._connection.xlen(results_key("r"))
        self.most_unanswered = max(self.most_unanswered, length + len(jobs))
        for job in jobs:
            self.sent.append(job.index)
            if not self._loses(job.index, self.sent.count(job.index)):
                write(self._connection, job.index)

    def backlog(self) -> int:
        return 0


def test_jobs_stay_within_the_window(folder: RunFolder, connection: redis.Redis) -> None:
    workers = Workers(connection, loses=lambda *_: False)
    collector = Collector(connection, folder)
    rounds = list(Run(folder, workers, collector, window=3).rounds())
    assert workers.sent == list(range(JOBS))
    assert workers.most_unanswered == 3
    assert rounds[-1].in_flight == 0
    assert collector.done_jobs == JOBS


def test_lost_jobs_are_sent_again(folder: RunFolder, connection: redis.Redis) -> None:
    workers = Workers(connection, loses=lambda index, attempt: index in (2, 6) and attempt < 3)
    collector = Collector(connection, folder)
    rounds = list(Run(folder, workers, collector, window=4, quiet_s=0.0).rounds())
    assert collector.done_jobs == JOBS
    assert sorted(workers.sent) == [0, 1, 2, 2, 2, 3, 4, 5, 6, 6, 6]
    assert rounds[-1].sent_again == 4
    assert [line["index"] for line in folder.answered_in_order()] == list(range(JOBS))
    folder.close()
    assert sorted(on_disk(folder.path)) == list(range(JOBS))
    assert on_disk(folder.path)[-1] in (2, 6)


def test_a_run_goes_on_from_what_is_on_disk(folder: RunFolder, connection: redis.Redis) -> None:
    write(connection, 3)
    Collector(connection, folder).collect(block_ms=1)
    workers = Workers(connection, loses=lambda *_: False)
    for _ in Run(folder, workers, Collector(connection, folder), window=100).rounds():
        pass
    assert workers.sent == [0, 1, 2, 4, 5, 6]
