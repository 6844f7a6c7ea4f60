"""A flagged answer is asked for once more with changed parameters, and the better one is written."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import redis
from PIL import Image

from bench.stub_worker import read_message
from contract.answer import Answer
from contract.broker import JOB_QUEUE
from contract.failure import Failure, FailureCode
from contract.job import GenerationParameters, Job, Question
from producer.planning import plan_run
from producer.questions import read_prompts
from producer.run_folder import RunFolder
from producer.submission import Submission
from producer.work import work_on
from tests.producer.test_cli import captionmill
from tests.support.producer_driver import Workers, answer, lines, texts, write

RULE: dict[Any, dict[str, Any]] = {"repetition": {"repetition_penalty": 1.1}}
FLAGS = {
    "repetition": "repetition_penalty=1.1",
    "truncated": "max_new_tokens=1024",
    "empty": "min_new_tokens=3",
}
"""Flag of an answer → the change that avoids it."""


def reply(job: Job, question: Question) -> Answer | Failure:
    """Has a flag for the parameters of the run; for others, what comes of them is in the question."""
    asked = str(question.messages)
    is_changed = job.parameters != GenerationParameters()
    if "loops" not in asked:
        flags = ("incomplete_image",) if "cut" in asked else ()
        return answer(f"[{asked}]").model_copy(update={"flags": flags})
    if is_changed and "fails" in asked:
        return Failure(code=FailureCode.QUESTION_REFUSED, message="No.")
    if is_changed and "better" in asked:
        return answer("good")
    flag = next((one for one in FLAGS if one in asked), "repetition")
    return answer("again again").model_copy(update={"flags": (flag,)})


def submission(images: Path, *questions: str, **more: Any) -> Submission:
    for number in range(2):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(images / f"{number}.png")
    prompts = read_prompts(list(questions), None, None)
    return Submission(sources=(str(images),), prompts=prompts, **more)


def drive(out: Path, connection: redis.Redis, submission: Submission | None = None) -> tuple[Workers, Any]:
    if submission is not None:
        plan_run(out, submission, submission.open())
    workers = Workers(connection, reply=reply)
    with (
        closing(RunFolder(out)) as folder,
        work_on(folder, connection, workers, feed=True, collect=True) as work,
    ):
        for _ in work.run.rounds():
            pass
        work.finish(keep_done_s=60)
        return workers, folder.ledger.asked_again()


def kept(out: Path) -> int:
    with closing(sqlite3.connect(out / "ledger.sqlite")) as ledger:
        count: int = ledger.execute("SELECT count(*) FROM ask WHERE outcome IS NOT NULL").fetchone()[0]
        return count


QUESTIONS: Mapping[str, tuple[str, bool]] = {
    "loops, better": ("good", True),
    "loops, on and on": ("again again", False),
    "loops, fails": ("again again", False),
    "fine": ("[fine]", False),
    "fine, with another flag of a cut image": ("[fine, with another flag of a cut image]", False),
}


def test_a_rule_of_the_run(images: Path, tmp_path: Path, connection: redis.Redis) -> None:
    """Each flagged question once more and no other; what builds on an answer builds on the better one."""
    out = tmp_path / "out"
    asked = submission(images, *QUESTIONS, "After {answer:q1}?", on_flag=RULE)
    asked = asked.model_copy(update={"prompts": asked.prompts})
    workers, again = drive(out, connection, asked)
    expected = [*(text for text, _ in QUESTIONS.values()), "[After good?]"]
    assert texts(out) == {"0.png": expected, "1.png": expected}
    assert again == (6, 2)
    assert kept(out) == 2 * (len(QUESTIONS) + 1 + 3)
    assert lines(out, "failures.jsonl") == []
    # The same again asks nothing and says the same.
    workers, _ = drive(out, connection, asked)
    assert (workers.sent, texts(out)["0.png"]) == ([], expected)


def test_a_retry_of_what_is_flagged(images: Path, tmp_path: Path, connection: redis.Redis) -> None:
    out = tmp_path / "out"
    drive(out, connection, submission(images, *QUESTIONS))
    with closing(RunFolder(out)) as folder:
        assert folder.retry(None, RULE["repetition"], flags=["repetition"]) == 6
    workers, again = drive(out, connection)
    assert texts(out)["0.png"] == [text for text, _ in QUESTIONS.values()]
    assert {job.parameters.repetition_penalty for job in workers.jobs} == {1.1}
    assert again == (6, 2)
    with closing(RunFolder(out)) as folder:
        assert folder.retry(None, {"repetition_penalty": 1.2}, flags=["repetition"]) == 4


@pytest.fixture
def worker(connection: redis.Redis) -> Iterator[None]:
    """Answers whatever the command sends."""
    done = Event()

    def work() -> None:
        while not done.is_set():
            taken: Any = connection.brpop([JOB_QUEUE], timeout=0.1)
            for job in read_message(taken[1]) if taken else ():
                write(connection, Job.model_validate(job), reply)

    thread = Thread(target=work)
    thread.start()
    yield
    done.set()
    thread.join()


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("flag", FLAGS)
def test_the_command(images: Path, tmp_path: Path, redis_url: str, flag: str) -> None:
    """Both ways end in the same answers, with the flagged ones kept in the ledger."""
    submission(images)
    asked = [word for text in QUESTIONS for word in ("--question", text.replace("loops", f"loops ({flag})"))]
    ruled, later = tmp_path / "ruled", tmp_path / "later"
    rule = ("--on-flag", f"{flag}={FLAGS[flag]}")
    ran = captionmill("run", images, *asked, *rule, "--out", ruled, "--redis", redis_url)
    assert ran.returncode == 0, ran.stderr
    told = "6 flagged answers asked for once more; 2 of the others are better and written."
    assert told in ran.stdout
    ran = captionmill("run", images, *asked, "--out", later, "--redis", redis_url)
    assert (ran.returncode, "asked for once more" in ran.stdout) == (0, False), ran.stderr
    assert texts(later)["0.png"][0] == "again again"
    name, _, value = FLAGS[flag].partition("=")
    change = ("--flag", flag, f"--{name.replace('_', '-')}", value)
    ran = captionmill("retry", later, *change, "--redis", redis_url)
    assert (ran.returncode, told in ran.stdout) == (0, True), ran.stderr
    for out in (ruled, later):
        assert texts(out)["0.png"] == [text for text, _ in QUESTIONS.values()]
        assert kept(out) == 2 * (len(QUESTIONS) + 3)


def test_images_that_share_an_answer(images: Path, tmp_path: Path, connection: redis.Redis) -> None:
    out = tmp_path / "out"
    asked = submission(images, "loops, better", on_flag=RULE)
    (images / "0.png").replace(images / "1.png")
    Image.open(images / "1.png").save(images / "2.png")
    workers, again = drive(out, connection, asked)
    assert (len(workers.sent), set(map(tuple, texts(out).values()))) == (2, {("good",)})
    assert again == (2, 2)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["retry", "{out}", "--flag", "repetition"], "--repetition-penalty 1.1"),
        (["retry", "{out}", "--flag", "truncated"], "--max-new-tokens 1024"),
        (["retry", "{out}", "--flag", "empty"], "--min-new-tokens 3"),
        (["run", "{images}", "--on-flag", "repetition"], "must be like repetition=repetition_penalty=1.1"),
        (["run", "{images}", "--on-flag", "repetition=repetition_penalty=x"], "--repetition-penalty: "),
        (["run", "{images}", "--on-flag", "repetition=seed=3"], "do_sample"),
    ],
)
def test_what_would_change_nothing_is_refused(
    images: Path, tmp_path: Path, connection: redis.Redis, redis_url: str, given: list[str], sentence: str
) -> None:
    drive(tmp_path / "out", connection, submission(images, "fine"))
    words = [one.format(out=tmp_path / "out", images=images) for one in given]
    ran = captionmill(*words, "--redis", redis_url)
    assert (ran.returncode, "Traceback" in ran.stderr) == (2, False)
    assert sentence in ran.stderr, ran.stderr
