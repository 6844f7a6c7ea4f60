"""`run --dry-run`: plans a run and looks for its image files; sends nothing."""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from captionmill.cache import cache_folder
from captionmill.exits import refuse
from captionmill.local_site import passing_folder
from contract.counting import counted
from contract.job import ImagePath, ImageUrl
from producer.planner import Planned, Planner
from producer.question_planner import QuestionPlanner
from producer.rows import Row
from producer.run_console import event
from producer.run_folder import RunFolder
from producer.sources import BadRows, Skipped, Source, shown
from producer.submission import Submission

EXAMPLES: Final = 3
"""Missing files that are named."""


@dataclass
class Looked:
    """A source that counts the images of its rows while they are read. Obeys producer.sources.Source."""

    source: Source
    first: list[Row] = field(default_factory=list)
    """The first rows, as planned."""
    files: int = 0
    """Number of images that are files."""
    urls: int = 0
    """Number of images by URL, which are not looked for."""
    missing: int = 0
    """Number of files that are missing or cannot be read here."""
    examples: list[str] = field(default_factory=list)

    @property
    def columns(self) -> tuple[str, ...] | None:
        return self.source.columns

    @property
    def skipped(self) -> Skipped:
        return self.source.skipped

    @property
    def images_folder(self) -> Path | None:
        return self.source.images_folder

    @property
    def notes(self) -> tuple[str, ...]:
        return self.source.notes

    def rows(self, bad: BadRows | None = None, /) -> Iterator[Row]:
        for row in self.source.rows(bad):
            for image in row.images:
                if isinstance(image, ImageUrl):
                    self.urls += 1
                elif isinstance(image, ImagePath):
                    self._look_at(image.to_path())
            yield row

    def read(self, place: int) -> bytes:
        return self.source.read(place)

    def _look_at(self, path: os.PathLike[str]) -> None:
        self.files += 1
        trouble = _trouble(path)
        if trouble is not None:
            self.missing += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append(f"{shown(path)} ({trouble})")


def look(submission: Submission, first: int) -> tuple[Looked, Planned]:
    """Read and check all rows as a run does. Raises what planning a run raises."""
    looked = Looked(submission.open())
    with passing_folder(cache_folder()) as folder:
        opened = RunFolder(folder / "run", create=True)
        try:
            planned = Planner(opened, submission, looked).plan()
            looked.first += [one.row for one in opened.ledger.next_rows(first)]
            return looked, planned
        finally:
            opened.close()


def show(looked: Looked, submission: Submission, rows: int, console: Console, *, as_json: bool) -> None:
    """Print what the first rows are asked and what was counted; refuse the run if a file is missing."""
    question_planner = QuestionPlanner(submission.prompts, submission.parameters, submission.detail)
    jobs = [_job(row, question_planner) for row in looked.first]
    if as_json:
        for job in jobs:
            event("job", job)
        found = {name: getattr(looked, name) for name in ("files", "urls", "missing", "examples")}
        event("looked", {"rows": rows, **found})
    else:
        console.print(_table(jobs), soft_wrap=False)
        told = [f"{counted(rows, 'row')} in all"]
        if looked.files and not looked.missing:
            told.append(f"{counted(looked.files, 'image file')} looked for and found")
        if looked.urls:
            told.append(f"{counted(looked.urls, 'URL')} not looked for")
        console.print(f"{'; '.join(told)}. Nothing was sent.")
    if looked.missing:
        more = ", …" if looked.missing > len(looked.examples) else ""
        refuse(
            f"{looked.missing} of {counted(looked.files, 'image file')} cannot be read on this machine: "
            f"{', '.join(looked.examples)}{more}."
        )


def _trouble(path: os.PathLike[str]) -> str | None:
    """Why a file cannot be read, without opening it; None if it can."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    if not stat.S_ISREG(found.st_mode):
        return "no regular file"
    return None if os.access(path, os.R_OK) else "Permission denied"


def _job(row: Row, question_planner: QuestionPlanner) -> dict[str, Any]:
    """A row's job as JSON-compatible data, without questions that depend on answers."""
    return {
        "id": shown(row.id),
        "image": None if row.image is None else row.image.model_dump(mode="json"),
        **({"images": [one.model_dump(mode="json") for one in row.images]} if row.more_images else {}),
        "detail": question_planner.detail(row),
        "failure": None if row.refusal is None else row.refusal.model_dump(mode="json", exclude={"kind"}),
        "questions": [
            {
                "id": one.id,
                "prompt": one.prompt,
                "parameters": one.parameters.model_dump(mode="json", exclude_defaults=True),
            }
            for one in question_planner.ready(row, {})
        ],
    }


def _table(jobs: list[dict[str, Any]]) -> Table:
    table = Table("row", "question", "what is asked", "parameters")
    for job in jobs:
        row = job["id"]
        for asked in job["questions"]:
            prompt = asked["prompt"]
            parameters = " ".join(
                f"{name}={json.dumps(value)}" for name, value in asked["parameters"].items()
            )
            text = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
            if job["failure"] is not None:
                text = f"{job['failure']['code']}: {job['failure']['message']}"
            table.add_row(row, asked["id"], text, parameters)
            row = ""
    return table
