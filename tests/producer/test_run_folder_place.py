"""A run folder that is moved or deleted under a run ends it; a copy is not driven beside the original."""

import shutil
import time
from contextlib import closing
from pathlib import Path

import pytest
import redis

from contract.broker import JOB_QUEUE
from producer.ledger import LedgerError
from producer.planning import plan_run
from producer.questions import read_prompts
from producer.run_folder import RunFolder
from producer.submission import Submission
from producer.work import work_on
from tests.producer.test_cli import ask_all, captionmill, command, photos, worker
from tests.support.command import run_command
from tests.support.processes import spawn, wait_until
from tests.support.producer_driver import Workers, texts

__all__ = ["photos", "worker"]

NOTICED_S = 10
"""Twice as long as a run may take to notice it, as the machine may be busy."""


def test_a_copy_and_a_folder_that_goes_away(
    redis_url: str, connection: redis.Redis, photos: Path, tmp_path: Path
) -> None:
    """Through the command: refused beside the original, which notices that it is moved, and goes on there."""
    out, copy, moved, log = (tmp_path / name for name in ("out", "copy", "moved", "log"))
    process = spawn(command(*ask_all(photos, out, redis_url)), log, {})
    wait_until(lambda: connection.llen(JOB_QUEUE) or process.poll() is not None)
    shutil.copytree(out, copy)
    for words in (["run", "--resume", "--out"], ["cancel"], ["collect"]):
        ran = run_command(*words, copy, "--redis", redis_url, timeout=NOTICED_S)
        assert (ran.returncode, "Traceback" in ran.stderr) == (2, False), ran.stderr
        assert f"{copy} and {out} " in ran.stderr
        assert "copies of one run" in ran.stderr
    assert process.poll() is None
    connection.delete(*connection.keys("captionmill:*:lease"))
    renewed = time.monotonic() + NOTICED_S
    wait_until(lambda: connection.keys("captionmill:*:lease") or time.monotonic() > renewed)
    assert connection.keys("captionmill:*:lease"), "the lease is not renewed"
    out.rename(moved)
    assert process.wait(NOTICED_S) == 2, log.read_text()
    assert "was moved or deleted" in log.read_text()
    assert "Traceback" not in log.read_text()
    again = spawn(command("--resume", "--out", str(moved), "--redis", redis_url), log, {})
    wait_until(lambda: connection.keys("captionmill:*:lease") or again.poll() is not None)
    shutil.rmtree(moved)
    assert again.wait(NOTICED_S) == 2, log.read_text()
    assert log.read_text().count("was moved or deleted") == 2


@pytest.mark.usefixtures("worker")
def test_a_copy_of_a_run_that_has_ended_goes_on(
    redis_url: str, connection: redis.Redis, photos: Path, tmp_path: Path
) -> None:
    out, copy = tmp_path / "out", tmp_path / "copy"
    asked = Submission(sources=(str(photos),), prompts=read_prompts(["What?"], None, None))
    plan_run(out, asked, asked.open())
    shutil.copytree(out, copy)
    ran = captionmill("run", "--resume", "--out", copy, "--redis", redis_url)
    assert ran.returncode == 0, ran.stderr
    assert len(texts(copy)) == 7
    assert not connection.keys("captionmill:*:lease")


def test_a_lease_that_another_takes_ends_the_run(
    photos: Path, tmp_path: Path, connection: redis.Redis
) -> None:
    out = tmp_path / "out"
    asked = Submission(sources=(str(photos),), prompts=read_prompts(["What?"], None, None))
    plan_run(out, asked, asked.open())
    shutil.copytree(out, tmp_path / "copy")
    workers = Workers(connection, loses=lambda *_: True)
    with (
        closing(RunFolder(tmp_path / "copy")) as copy,
        work_on(copy, connection, workers, feed=True, collect=True),
        closing(RunFolder(out)) as folder,
        pytest.raises(LedgerError, match="copies of one run"),
        work_on(folder, connection, workers, feed=True, collect=True),
    ):
        pass
