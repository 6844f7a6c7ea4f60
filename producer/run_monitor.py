"""Shows the progress of a run that other processes drive, from its ledger; changes nothing."""

import time
from typing import Final

from rich.console import Console

from producer.progress import show_progress
from producer.run import Round
from producer.run_console import signals_as_flag
from producer.run_folder import RunFolder

LOOK_EVERY_S: Final = 0.5


def watch(folder: RunFolder, console: Console, *, as_json: bool) -> None:
    """Show the progress until the run is finished, or a signal comes."""
    ledger = folder.ledger
    heard_at, before = time.monotonic(), -1
    asked = False
    with (
        signals_as_flag() as stopped,
        show_progress(ledger.rows(), ledger.complete_rows(), console, as_json=as_json) as progress,
    ):
        while not stopped:
            complete = ledger.complete_rows()
            if complete != before:
                heard_at, before = time.monotonic(), complete
            in_flight = ledger.count_open_jobs()
            asked = asked or bool(in_flight)
            progress(
                Round(
                    complete=complete,
                    failed_questions=sum(ledger.failures().values()),
                    in_flight=in_flight,
                    tokens=0,
                    silent_s=time.monotonic() - heard_at,
                    sent_again=0,
                    held=None,
                    asked=asked,
                )
            )
            if folder.finished:
                return
            time.sleep(LOOK_EVERY_S)
