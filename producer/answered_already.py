"""Finds rows whose answer is on disk already, in a sidecar that is kept or in a file; sends nothing."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from contract.job import ImagePath, ImageUrl
from producer.rows import Row, RowImage
from producer.sinks.kinds import FAILURES_KIND, SIDECAR_KIND, SIDECAR_RECORD
from producer.sinks.sidecar import Captioned
from producer.sinks.sink import SinkOptions
from producer.sources import SourceError, SourceOptions, open_sources, shown

ANSWERS: Final = ("answers", "answer", "captions", "caption", "text", "response")
"""Names of columns that hold an answer, in files of any program."""


class AnsweredAlready:
    """Checks the rows of a source, each once."""

    def __init__(
        self,
        sinks: Sequence[str],
        options: SinkOptions,
        files: Sequence[str],
        folder: Path,
        *,
        questions: Iterable[str],
        image_root: str | None,
    ) -> None:
        """`folder` is the run's folder, `questions` are the ids of the run's questions.

        Sidecars count only in a run that writes nothing else. Raises SourceError for a file without answers.
        """
        self.counts: Counter[str] = Counter()
        """Where the answer is → number of rows that were skipped."""
        self._captioned = None
        asked_for = [spec.partition(":")[::2] for spec in sinks]
        if options.sidecar_policy == "skip" and {kind for kind, _ in asked_for} <= {
            SIDECAR_KIND,
            FAILURES_KIND,
        }:
            root = next((path for kind, path in asked_for if kind == SIDECAR_KIND), None)
            if root is not None:
                place = Path(root) if root else None
                self._captioned = Captioned(place, folder / SIDECAR_RECORD, options)
        columns = (*questions, *ANSWERS)
        self._files = {file: _answered_in(file, columns, image_root) for file in files}

    def has(self, row: Row) -> bool:
        """Whether the row has its answer. Counts the rows that have."""
        where = self._where(row)
        if where is not None:
            self.counts[where] += 1
        return where is not None

    def close(self) -> None:
        if self._captioned is not None:
            self._captioned.close()

    def _where(self, row: Row) -> str | None:
        if self._captioned is not None and self._captioned.has(row.image, row.name):
            return "a caption beside the image (--sidecars skip)"
        key = _key(row.image, row.id)
        return next(
            (f"{shown(file)} (--skip-answered)" for file, keys in self._files.items() if key in keys), None
        )


def _answered_in(file: str, columns: Sequence[str], image_root: str | None) -> set[str]:
    """Keys of the file's images, of those that have all their answers."""
    source = open_sources([(file, SourceOptions(own_questions=False, image_root=image_root))])
    answered: set[str] = set()
    failed: set[str] = set()
    has_answers = False
    for row in source.rows():
        there = [name for name in columns if name in row.columns]
        has_answers = has_answers or bool(there)
        key = _key(row.image, row.id)
        (answered if there and all(_is_answer(row.columns, name) for name in there) else failed).add(key)
    if not has_answers:
        raise SourceError(
            f"{shown(file)} has no answers for --skip-answered: it has no column {', '.join(columns)}."
        )
    return answered - failed


def _is_answer(columns: Mapping[str, Any], name: str) -> bool:
    value = columns[name]
    if isinstance(value, list):
        return bool(value) and all("failure" not in one for one in value if isinstance(one, dict))
    return value is not None and bool(str(value).strip())


def _key(image: RowImage | None, row_id: str) -> str:
    """The image's path or URL; the row's id where it has neither."""
    if isinstance(image, ImagePath):
        path = image.to_path()
        return os.path.join(os.path.realpath(path.parent), path.name)
    return image.url if isinstance(image, ImageUrl) else f"id {row_id}"
