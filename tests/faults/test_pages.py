"""A ledger with damaged pages is refused or right; after its repair no row is lost, twice or wrong."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from contract.answer import Answer
from contract.failure import Failure
from contract.job import ImagePath, Job, Question
from producer.ledger import LEDGER, LedgerError
from producer.planner import Planner
from producer.questions import read_prompts
from producer.repair import repair
from producer.run_console import summary
from producer.run_folder import RunFolder
from producer.sinks.sink import SinkError
from producer.sources import SourceError
from producer.submission import Submission
from producer.work import work_on
from tests.faults.pages import damage
from tests.support.producer_driver import Workers, answer

ROWS: Final = 40
REFUSED: Final = (LedgerError, SourceError, SinkError)
"""What the command says in one sentence, with exit code 2."""


def told(job: Job, question: Question) -> Answer | Failure:
    assert isinstance(job.image, ImagePath)
    return answer(f"{job.image.to_path().name} {question.messages}")


class Runs:
    """One run in the middle, and what the server knows of it, to be damaged again and again."""

    def __init__(self, folder: Path, connection: redis.Redis) -> None:
        self._folder = folder
        self._connection: Any = connection
        self.photos = folder / "photos"
        self.photos.mkdir()
        for number in range(ROWS):
            (self.photos / f"{number:03}.png").write_bytes(b"picture %d" % (number % 35))
        self._closed, self._killed = folder / "closed", folder / "killed"
        self._begin()
        self._keys = {key: connection.dump(key) for key in self._connection.scan_iter("captionmill:*")}

    def _begin(self) -> None:
        prompts = read_prompts(("What?", "Where, if {answer:q1}?"), None, None)
        asked = Submission(sources=(str(self.photos),), prompts=prompts)
        run = RunFolder(self._closed, create=True)
        Planner(run, asked, asked.open()).plan()
        # The last jobs are lost on their way.
        workers = Workers(self._connection, loses=lambda index, _: index >= ROWS - 5, reply=told)
        with work_on(run, self._connection, workers, feed=True, collect=True, window=20) as work:
            for done in work.run.rounds():
                if done.in_flight >= 4:
                    break
        shutil.copytree(self._closed, self._killed)
        run.close()

    def copy(self, name: str, *, killed: bool) -> Path:
        path = self._folder / name
        shutil.copytree(self._killed if killed else self._closed, path)
        self._connection.flushall()
        for key, content in self._keys.items():
            self._connection.restore(key, 0, content)
        return path

    def go_on(self, path: Path, *, overwrite: bool = False) -> None:
        run = RunFolder(path)
        try:
            if overwrite:
                run.begin_outputs()
            workers = Workers(self._connection, reply=told)
            with work_on(run, self._connection, workers, feed=True, collect=True, window=20) as work:
                work.run.reconciler.quiet_s = 0.0
                list(work.run.rounds())
                work.finish(keep_done_s=60)
        finally:
            run.close()

    def check(self, path: Path) -> None:
        lines = [json.loads(line) for line in (path / "answers.jsonl").read_text().splitlines()]
        seen = Counter(line["id"] for line in lines)
        assert seen == Counter(photo.name for photo in self.photos.iterdir()), "lost, twice or foreign"
        for line in lines:
            texts = [one["text"] for one in line["answers"]]
            names = {f"{number:03}.png" for number in range(ROWS) if number % 35 == int(line["id"][:3]) % 35}
            assert texts[0] in {f"{name} What?" for name in names}
            assert texts[1] in {f"{name} Where, if {texts[0]}?" for name in names}


@pytest.fixture
def runs(tmp_path: Path, connection: redis.Redis) -> Runs:
    return Runs(tmp_path, connection)


def survives(runs: Runs, path: Path, file: str, seed: int) -> str:
    """What became of it: as if nothing was, or repaired."""
    damage(path / file, seed)
    try:
        looked = RunFolder(path, read_only=True)
        try:
            summary(looked)
        finally:
            looked.close()
        runs.go_on(path)
    except REFUSED as refusal:
        made = repair(path)
        is_of_outputs = isinstance(refusal, SinkError)
        assert made is not None or is_of_outputs, "what was refused as damaged is repaired"
        runs.go_on(path, overwrite=made is None or bool(made.unknown_outputs))
        runs.check(path)
        return "repaired"
    runs.check(path)
    return "unharmed"


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.faults)])
def test_damaged_pages(runs: Runs, count: int) -> None:
    became: Counter[str] = Counter()
    for seed in range(count):
        killed = seed % 4 == 0
        path = runs.copy(f"run-{seed}", killed=killed)
        file = LEDGER + ("-wal" if killed and seed % 8 == 0 else "")
        became[survives(runs, path, file, seed)] += 1
        shutil.rmtree(path)
    print(dict(became))
    assert became["repaired"] > count / 4
