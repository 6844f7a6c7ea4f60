"""Shows a run's progress: a live bar in a terminal, lines elsewhere, or JSON; knows no queue and no store."""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from contract.counting import counted
from producer.run import Round

SILENCE_S: Final = 30.0
"""Seconds without an answer before the progress says so."""
LINE_EVERY_S: Final = 10.0
JSON_EVERY_S: Final = 1.0
LATE_S: Final = 300.0
"""Seconds that rates are computed over: a large model may take minutes for a batch's first answers."""
PAST: Final = 300
"""Number of past values that are kept."""

Show = Callable[[Round], None]


class _Past(NamedTuple):
    """The progress at one time."""

    at: float
    complete: int
    tokens: int


class Rate:
    """Recent rows and tokens per second, and the time for the rest at that rate.

    Recent ones, because rows with known answers pass by the thousand, and workers come and go.
    """

    def __init__(self, rows: int, complete: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`complete` of the rows are complete already."""
        self._rows = rows
        self._clock = clock
        self._begun = clock()
        self._past = deque([_Past(self._begun, complete, 0)])

    def fields(self, round_: Round) -> dict[str, Any]:
        """The round's numbers by name; eta_s is None until a row is complete."""
        now = self._clock()
        while len(self._past) > 1 and now - self._past[1].at >= LATE_S:
            self._past.popleft()
        then = self._past[0]
        if now - self._past[-1].at >= LATE_S / PAST:
            self._past.append(_Past(now, round_.complete, round_.tokens))
        seconds = max(now - then.at, 1e-3)
        rate = (round_.complete - then.complete) / seconds
        left = self._rows - round_.complete
        return {
            "rows": self._rows,
            "done": round_.complete,
            "failed_questions": round_.failed_questions,
            "in_flight": round_.in_flight,
            "images_per_s": round(rate, 3),
            "tokens_per_s": round((round_.tokens - then.tokens) / seconds, 3),
            "eta_s": round(left / rate) if rate > 0 else None,
            "elapsed_s": round(now - self._begun, 3),
            "sent_again": round_.sent_again,
            "held": round_.held,
        }


@contextmanager
def show_progress(rows: int, complete: int, console: Console, *, as_json: bool) -> Iterator[Show]:
    """Yields a function to call after each round. JSON goes to stdout, one line a second."""
    rate = Rate(rows, complete)
    if as_json:
        yield _every(JSON_EVERY_S, rows, lambda round_: print(_event(rate, round_), flush=True))
    elif console.is_terminal:
        with _bar(rows, console, rate) as show:
            yield show
    else:
        yield _every(
            LINE_EVERY_S,
            rows,
            lambda round_: console.print(
                f"{round_.complete}/{counted(rows, 'image')}, {describe(rate, round_)}"
            ),
        )


def _event(rate: Rate, round_: Round) -> str:
    return json.dumps({"event": "progress", **rate.fields(round_)})


@contextmanager
def _bar(rows: int, console: Console, rate: Rate) -> Iterator[Show]:
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=rows)

        def show(round_: Round) -> None:
            progress.update(task, completed=round_.complete, description=describe(rate, round_))

        yield show


def _every(seconds: float, rows: int, show: Show) -> Show:
    shown_at = time.monotonic()
    end_shown = False

    def maybe(round_: Round) -> None:
        nonlocal shown_at, end_shown
        now = time.monotonic()
        if now - shown_at >= seconds or (round_.complete == rows and not end_shown):
            shown_at = now
            end_shown = round_.complete == rows
            show(round_)

    return maybe


def describe(rate: Rate, round_: Round) -> str:
    """The round in words."""
    now = rate.fields(round_)
    parts = [f"{round_.failed_questions} failed", f"{round_.in_flight} in flight"]
    if round_.asked:
        parts += [f"{now['images_per_s']:.1f} images/s", f"{now['tokens_per_s']:.0f} tokens/s"]
    if now["eta_s"] is not None:
        parts.append(f"ETA {duration(now['eta_s'])}")
    if round_.sent_again:
        parts.append(f"{round_.sent_again} sent again")
    if round_.held is not None:
        parts.append(f"waiting: {round_.held}")
    if round_.in_flight and round_.silent_s >= SILENCE_S:
        parts.append(f"no worker has answered for {round_.silent_s:.0f} s")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
