"""Tells how far a conversion is, to people or to a program; knows no model."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

STAGE_COUNT: Final = 11
"""Most stages of one conversion, model_prep.convert.convert."""


class Events:
    """Lines of JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told_percent = -1

    def stage(self, name: str) -> None:
        self.tell("stage", stage=name, stages=STAGE_COUNT)

    def downloaded(self, done_bytes: int, total_bytes: int) -> None:
        percent = 100 * done_bytes // max(1, total_bytes)
        if percent != self._told_percent:
            self._told_percent = percent
            self.tell("download", done_bytes=done_bytes, total_bytes=total_bytes)

    def tell(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}), file=self._stream, flush=True)


class Shown:
    """A bar on a terminal, the download below it; a line for each stage where there is no terminal."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("starting", total=STAGE_COUNT, completed=-1)
        self._download: TaskID | None = None

    def stage(self, name: str) -> None:
        self._hide_download()
        if self._bars.console.is_terminal:
            self._bars.update(self._task, advance=1, description=name)
        else:
            self.say(f"{name} …")

    def say(self, line: str) -> None:
        """A line that stays, above the bar."""
        self._bars.console.print(line)

    def downloaded(self, done_bytes: int, total_bytes: int) -> None:
        if self._download is None:
            self._download = self._bars.add_task("download", unit="bytes")
        self._bars.update(self._download, completed=done_bytes, total=total_bytes)

    def finish(self) -> None:
        self._hide_download()
        self._bars.update(self._task, completed=STAGE_COUNT, description="done")

    def _hide_download(self) -> None:
        if self._download is not None:
            self._bars.remove_task(self._download)
            self._download = None


class _Amount(DownloadColumn):
    """Stages as a count, downloads in bytes."""

    def render(self, task: Any) -> Any:
        if task.fields.get("unit") == "bytes":
            return super().render(task)
        return TextColumn("{task.completed}/{task.total}").render(task)


@contextmanager
def shown_progress(*, leave: bool = True) -> Iterator[Shown]:
    """Progress on stderr for as long as the block lasts; `leave` keeps the bar when it is full."""
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), _Amount(), TimeElapsedColumn())
    bars = Progress(*columns, console=console, transient=not leave, disable=not console.is_terminal)
    with bars:
        yield Shown(bars)


def own_stdout() -> TextIO:
    """stdout for events alone: what libraries print, from C++ as well, goes to stderr from now on."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return events
