"""A run's folder on disk: what was asked, what is answered, and how far; knows nothing of Redis.

run.json       the run: id, source, parameters, number of jobs
jobs.jsonl     one line per job, written before the first one is sent
answers.jsonl  one line per answered job, in order of arrival
checkpoint.json  how much of answers.jsonl is certain, and the place in the run's stream that it matches
"""

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from contract.job import Detail, GenerationParameters, ImagePath, Job
from producer.sources import Row, SourceError, shown


@dataclass(frozen=True)
class Entry:
    """A job and the id its row has in the source."""

    id: str
    job: Job


class RunRecord(BaseModel):
    """run.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    source: str
    parameters: GenerationParameters
    detail: Detail = "high"
    jobs: int


class Checkpoint(BaseModel):
    """checkpoint.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stream_id: str = "0-0"
    answers_bytes: int = 0


class RunFolder:
    """Opened by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Open a folder that `create` has made, and cut answers.jsonl back to what is certain."""
        self.path = path
        self.record = RunRecord.model_validate_json((path / "run.json").read_bytes())
        self.checkpoint = Checkpoint()
        if (path / "checkpoint.json").exists():
            self.checkpoint = Checkpoint.model_validate_json((path / "checkpoint.json").read_bytes())
        self._jobs = (path / "jobs.jsonl").open("rb")
        self._offsets = array("Q")
        offset = 0
        for line in self._jobs:
            self._offsets.append(offset)
            offset += len(line)
        assert len(self._offsets) == self.record.jobs
        self._answers = (path / "answers.jsonl").open("ab")
        self._answers.truncate(self.checkpoint.answers_bytes)

    @classmethod
    def create(
        cls,
        path: Path,
        run: str,
        source: Path,
        rows: Iterable[Row],
        parameters: GenerationParameters,
        detail: Detail = "high",
    ) -> Self:
        """Read the whole source once and write its jobs down; run.json comes last and makes the folder a run.

        Raises SourceError for a bad row, or a folder that holds a run already.
        """
        if (path / "run.json").exists():
            raise SourceError(f"{shown(path)} holds a run already; choose another --out.")
        path.mkdir(parents=True, exist_ok=True)
        jobs = 0
        with (path / "jobs.jsonl").open("wb") as file:
            for row in rows:
                image = None if row.image is None else ImagePath.of(row.image)
                job = Job(
                    run=run,
                    index=jobs,
                    image=image,
                    questions=row.questions,
                    parameters=parameters,
                    detail=detail,
                )
                file.write(_line({"id": row.id, "job": job.to_message()}))
                jobs += 1
            _sync(file.fileno())
        record = RunRecord(run=run, source=shown(source), parameters=parameters, detail=detail, jobs=jobs)
        (path / "answers.jsonl").write_bytes(b"")
        (path / "checkpoint.json").unlink(missing_ok=True)
        _replace(path / "run.json", record.model_dump_json(indent=1).encode())
        return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def entry(self, index: int) -> Entry:
        """Raises IndexError for an index that is not of this run."""
        self._jobs.seek(self._offsets[index])
        fields = json.loads(self._jobs.readline())
        return Entry(id=fields["id"], job=Job.model_validate(fields["job"]))

    def entries(self) -> Iterator[Entry]:
        return (self.entry(index) for index in range(self.record.jobs))

    def answered(self) -> Iterator[dict[str, Any]]:
        """The lines of answers.jsonl that are certain."""
        left = self.checkpoint.answers_bytes
        with (self.path / "answers.jsonl").open("rb") as file:
            while left > 0:
                line = file.readline()
                left -= len(line)
                yield json.loads(line)

    def answered_in_order(self) -> Iterator[dict[str, Any]]:
        """The same lines in the jobs' order."""
        places: list[tuple[int, int]] = []
        with (self.path / "answers.jsonl").open("rb") as file:
            while (place := file.tell()) < self.checkpoint.answers_bytes:
                places.append((json.loads(file.readline())["index"], place))
            for _, place in sorted(places):
                file.seek(place)
                yield json.loads(file.readline())

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write lines to answers.jsonl and to the disk; certain only after `commit`."""
        self._answers.write(b"".join(map(_line, lines)))
        self._answers.flush()
        _sync(self._answers.fileno())

    def commit(self, stream_id: str) -> None:
        """Make everything appended certain, as what the stream holds up to `stream_id`."""
        checkpoint = Checkpoint(stream_id=stream_id, answers_bytes=self._answers.tell())
        _replace(self.path / "checkpoint.json", checkpoint.model_dump_json().encode())
        self.checkpoint = checkpoint

    def close(self) -> None:
        """Leave answers.jsonl with whole and certain lines only. A second call does nothing."""
        if self._answers.closed:
            return
        self._answers.flush()
        self._answers.truncate(self.checkpoint.answers_bytes)
        self._answers.close()
        self._jobs.close()


def _line(fields: dict[str, Any]) -> bytes:
    """One JSON line in UTF-8; a name that is not UTF-8 makes the line ASCII, with its surrogates escaped."""
    try:
        return (json.dumps(fields, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(fields) + "\n").encode("ascii")


def _replace(path: Path, content: bytes) -> None:
    """Exchange a file's content so that a crash leaves the old or the new one."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)
