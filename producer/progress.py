"""Shows how far a run is, as a live bar in a terminal or as lines elsewhere; knows no queue and no store."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from producer.run import Round

SILENCE_S: Final = 30.0
LINE_EVERY_S: Final = 10.0
START_A_WORKER: Final = "celery -A worker worker -P threads"

Show = Callable[[int, int, Round], None]
"""Takes the numbers of jobs done and, among them, with a failure; and the round they were counted after."""


@contextmanager
def show_progress(jobs: int, console: Console) -> Iterator[Show]:
    """Yields what is to be called after each round."""
    if console.is_terminal:
        with _bar(jobs, console) as show:
            yield show
    else:
        yield _lines(jobs, console)


@contextmanager
def _bar(jobs: int, console: Console) -> Iterator[Show]:
    columns = (
        TextColumn("images"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    begun = time.monotonic()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=jobs)

        def show(done: int, failed: int, round_: Round) -> None:
            progress.update(task, completed=done, description=describe(done, failed, round_, begun))

        yield show


def _lines(jobs: int, console: Console) -> Show:
    begun = time.monotonic()
    shown_at = begun

    def show(done: int, failed: int, round_: Round) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if now - shown_at >= LINE_EVERY_S or done == jobs:
            shown_at = now
            console.print(f"{done}/{jobs} images, {describe(done, failed, round_, begun)}")

    return show


def describe(done: int, failed: int, round_: Round, begun: float) -> str:
    """`begun` in seconds of the monotonic clock."""
    elapsed_s = max(time.monotonic() - begun, 1e-3)
    parts = [f"{failed} failed", f"{round_.in_flight} in flight", f"{done / elapsed_s:.1f} images/s"]
    if round_.sent_again:
        parts.append(f"{round_.sent_again} sent again")
    if round_.silent_s >= SILENCE_S:
        parts.append(f"no worker has answered for {round_.silent_s:.0f} s; start one with: {START_A_WORKER}")
    return ", ".join(parts)
