"""Progress of a conversion, for people or for a program; knows no model."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

STAGE_COUNT: Final = 11
"""Largest number of stages of model_prep.convert.convert."""
QUARTER: Final = 25
"""Percent of a comparison between two lines of output, without a terminal."""


class Events:
    """Writes events as lines of JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told_percent = -1

    def stage(self, name: str) -> None:
        self._told_percent = -1
        self.tell("stage", stage=name, stages=STAGE_COUNT)

    def downloaded(self, done_bytes: int, total_bytes: int) -> None:
        if self._is_news(done_bytes, total_bytes):
            self.tell("download", done_bytes=done_bytes, total_bytes=total_bytes)

    def compared(self, done: int, total: int) -> None:
        if self._is_news(done, total):
            self.tell("compared", done=done, total=total)

    def _is_news(self, done: int, total: int) -> bool:
        percent, told = 100 * done // max(1, total), self._told_percent
        self._told_percent = percent
        return percent != told

    def tell(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}), file=self._stream, flush=True)


class Shown:
    """Shows a bar for the stages and one for the current stage; without a terminal, prints lines."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("starting", total=STAGE_COUNT, completed=-1)
        self._within: TaskID | None = None
        self._quarters = 0

    def stage(self, name: str) -> None:
        self._hide_within()
        if self._bars.console.is_terminal:
            self._bars.update(self._task, advance=1, description=name)
        else:
            self.say(f"{name} …")

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(line)

    def downloaded(self, done_bytes: int, total_bytes: int) -> None:
        self._show_within("download", done_bytes, total_bytes, unit="bytes")

    def compared(self, done: int, total: int) -> None:
        """Show `done` of `total` layers in percent."""
        percent = 100 * done // max(1, total)
        self._show_within("compared", percent, 100, unit="percent")
        if not self._bars.console.is_terminal and percent // QUARTER > self._quarters:
            self._quarters = percent // QUARTER
            self.say(f"compared: {self._quarters * QUARTER} %")

    def finish(self) -> None:
        self._hide_within()
        self._bars.update(self._task, completed=STAGE_COUNT, description="done")

    def _show_within(self, name: str, done: int, total: int, unit: str) -> None:
        if self._within is None:
            self._within = self._bars.add_task(name, unit=unit)
        self._bars.update(self._within, completed=done, total=total)

    def _hide_within(self) -> None:
        self._quarters = 0
        if self._within is not None:
            self._bars.remove_task(self._within)
            self._within = None


class _Amount(DownloadColumn):
    """Shows stages as a count, downloads in bytes, comparisons in percent."""

    def render(self, task: Any) -> Any:
        match task.fields.get("unit"):
            case "bytes":
                return super().render(task)
            case "percent":
                return TextColumn("{task.completed} %").render(task)
        return TextColumn("{task.completed}/{task.total}").render(task)


@contextmanager
def shown_progress(*, leave: bool = True) -> Iterator[Shown]:
    """Progress on stderr for the length of the block; `leave` keeps the finished bar."""
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), _Amount(), TimeElapsedColumn())
    bars = Progress(*columns, console=console, transient=not leave, disable=not console.is_terminal)
    with bars:
        yield Shown(bars)


def own_stdout() -> TextIO:
    """stdout for events only; from now on, output of libraries, also from C++, goes to stderr."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return events
