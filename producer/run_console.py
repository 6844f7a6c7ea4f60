"""Drives a run in the foreground, with progress, Ctrl-C and a report; knows no options."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rich.console import Console

from contract.broker import VISIBILITY_TIMEOUT_S
from contract.counting import counted
from producer.contact_sheet import write_contact_sheet
from producer.outputs import Outputs
from producer.progress import show_progress
from producer.run_folder import RunFolder
from producer.sinks.columns import printable
from producer.sinks.files import replaced_file
from producer.sources import Skipped, shown, shown_sources
from producer.work import Work

NAMED: Final = 10
"""Number of missing outputs that are named for each sink; failures.jsonl has all."""


@dataclass(frozen=True)
class Driven:
    """How driving a run ended."""

    finished: bool
    """False if a signal came first."""
    outputs: Outputs | None


@contextmanager
def signals_as_flag() -> Iterator[list[int]]:
    """A list that Ctrl-C and SIGTERM fill: a run ends between two rounds. A second signal ends it at once."""
    caught: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {
        number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def drive(work: Work, console: Console, *, as_json: bool, check: Callable[[], None] = lambda: None) -> Driven:
    """Drive the run to its end, or until a signal comes. `check` is called after each round."""
    rows = work.folder.ledger.rows()
    with (
        signals_as_flag() as stopped,
        show_progress(rows, work.run.complete, console, as_json=as_json) as progress,
    ):
        for round_ in work.run.rounds():
            progress(round_)
            check()
            if stopped:
                return Driven(False, work.outputs)
    work.finish(keep_done_s=2 * VISIBILITY_TIMEOUT_S)
    return Driven(True, work.outputs)


def make_contact_sheet(folder: RunFolder) -> Path:
    """Write the contact sheet. Raises SinkError if its file was changed."""
    title = shown_sources([os.path.basename(one) or one for one in folder.submission.sources])
    with replaced_file(folder.contact_sheet) as page:
        write_contact_sheet(folder.ledger.in_order(), page, title=title, read_image=folder.reader())
    with folder.ledger.transaction():
        folder.record.flush()
    return folder.contact_sheet.path


def summary(folder: RunFolder, outputs: Outputs | None = None) -> dict[str, Any]:
    """The run's progress, by outcome; JSON-ready."""
    ledger = folder.ledger
    failures = ledger.failures()
    result: dict[str, Any] = {
        "folder": shown(folder.path),
        "run": folder.run,
        "sources": [shown(one) for one in folder.submission.sources],
        "rows": ledger.rows(),
        "complete": ledger.complete_rows(),
        "in_flight": ledger.count_open_jobs(),
        "answered": ledger.answered_questions(),
        "failed": sum(failures.values()),
        "failures": failures,
        "finished": folder.finished,
        "skipped": folder.skipped.fields(),
        "without_image": folder.without_image,
        "answered_already": folder.answered_already,
        "asked_again": dict(zip(("questions", "better"), ledger.asked_again(), strict=True)),
    }
    result["not_written"] = not_written(folder)
    if outputs is not None:
        result["left_alone"] = {sink.name: dict(sink.left_alone) for sink in outputs.sinks if sink.left_alone}
        result["left_alone_examples"] = {
            sink.name: sink.left_alone.examples for sink in outputs.sinks if sink.left_alone
        }
    return result


def not_written(folder: RunFolder) -> dict[str, Any]:
    """Sink → outputs that are missing on disk: their number, and the first of them."""
    ledger = folder.ledger
    return {
        sink: {
            "count": count,
            "first": [
                {"id": printable(row.id), "name": printable(row.name or row.id), "reason": reason}
                for _, row, reason in ledger.unwritten(sink, NAMED)
            ],
        }
        for sink, count in ledger.count_unwritten().items()
    }


def report(found: dict[str, Any], console: Console) -> None:
    """Print the summary in words."""
    state = "" if found["finished"] else f" {found['complete']} of them complete;"
    console.print(
        f"{counted(found['rows'], 'image')}:{state} {counted(found['answered'], 'question')} answered, "
        f"{found['failed']} failed."
    )
    if found["without_image"]:
        console.print(f"Asked without an image: {counted(found['without_image'], 'row')}.")
    if "jobs_sent" in found:
        console.print(f"New jobs: {found['jobs_sent']}; what the folder knew already was not asked again.")
    if found["skipped"]:
        console.print(f"{Skipped.of(found['skipped']).told()}.")
    tell_answered(found["answered_already"], console)
    again = found["asked_again"]
    if again["questions"]:
        flagged = counted(again["questions"], "flagged answer")
        console.print(
            f"{flagged} asked for once more; {again['better']} of the others are better and written."
        )
    for code, count in found["failures"].items():
        remedy = found.get("remedies", {}).get(code)
        console.print(f"  {count:6d}  {code}" + (f": {remedy}" if remedy else ""))
    for sink, reasons in found.get("left_alone", {}).items():
        for reason, count in reasons.items():
            example = found["left_alone_examples"][sink].get(reason)
            console.print(
                f"  {count:6d}  {sink}: not written, as {reason}" + (f" ({example})" if example else "")
            )
    _report_not_written(found, console)


def tell_answered(answered: Mapping[str, int], console: Console) -> None:
    """Print how many images are left out because their answers are there."""
    for where, count in answered.items():
        console.print(f"{counted(count, 'image')} not asked about, as the answer is there: {where}.")


def _report_not_written(found: dict[str, Any], console: Console) -> None:
    for sink, missing in found["not_written"].items():
        count = missing["count"]
        console.print(f"Not on disk: {count} {'output' if count == 1 else 'outputs'} of {sink}:")
        for one in missing["first"]:
            console.print(f"    {one['name']}: {one['reason']}")
        if count > len(missing["first"]):
            console.print(f"    and {count - len(missing['first'])} more, in failures.jsonl")
    if found["not_written"]:
        console.print(
            f"When the cause is gone, write them without asking again: captionmill export {found['folder']}"
        )


def event(name: str, fields: dict[str, Any]) -> None:
    """Print one line of JSON to stdout."""
    print(json.dumps({"event": name, **fields}), flush=True)
