"""The command `demo`: the demo model answers the sample images in local mode; compares with the truth."""

import json
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from captionmill.app import QUESTIONS, CommandConsole, app, make_console
from captionmill.exits import refuse, sentences
from captionmill.options import LocalOptions
from captionmill.processes import die_with_parent
from captionmill.runs import plan, serving, work
from demo.samples import DESCRIBE_QUESTION, IMAGES, MODEL_FOLDER, NUMBER_QUESTION, Truth, read_truth
from producer.ledger import LEDGER
from producer.questions import read_prompts
from producer.submission import Submission

MARKER: Final = ".captionmill-demo"
"""File in a folder that the demo made and may remove."""


@app.command(rich_help_panel=QUESTIONS)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the answers, the contact sheet and the logs.")] = Path(
        "captionmill-demo"
    ),
    stop_with_parent: Annotated[
        bool, typer.Option("--stop-with-parent", help="Also stop when the calling process dies.")
    ] = False,
) -> None:
    """Caption the sample images with the demo model, without a server."""
    if stop_with_parent:
        die_with_parent(signal.SIGTERM)()
    console = make_console(as_json=False)
    started = time.monotonic()
    with sentences():
        _clear(out)
        submission = Submission(
            sources=(str(IMAGES),),
            prompts=read_prompts((DESCRIBE_QUESTION, NUMBER_QUESTION), None, None),
            local_model=str(MODEL_FOLDER),
        )
        plan(out, submission, None)
        with serving(None, out, None, LocalOptions(), console) as site:
            code = work(out, site, console, window=None, as_json=False)
        _show(CommandConsole(), out, time.monotonic() - started)
    raise typer.Exit(code)


def _clear(out: Path) -> None:
    """Empty the folder of an earlier demo. Refuses the folder of another run."""
    if (out / MARKER).exists():
        shutil.rmtree(out)
    elif (out / LEDGER).exists():
        refuse(f"{out} holds a run that is not the demo's; choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def _show(console: Console, out: Path, seconds: float) -> None:
    """Print each image with its answers, and the number of correct ones."""
    truth = read_truth()
    table = Table("image", "description", "number", expand=False)
    right = {"description": 0, "number": 0}
    for line in (out / "answers.jsonl").read_text().splitlines():
        record = json.loads(line)
        name = Path(record["image"]).name
        texts = [_text(answer) for answer in record["answers"]]
        known = truth.get(name, Truth(name, "", ""))
        marks = [text == true for text, true in zip(texts, (known.description, known.number), strict=True)]
        for topic, mark in zip(right, marks, strict=True):
            right[topic] += mark
        table.add_row(
            name,
            *(
                f"{'[green]✓' if mark else '[red]✗'}[/] {text}"
                for text, mark in zip(texts, marks, strict=True)
            ),
        )
    console.print(table)
    console.print(
        f"Right: {right['description']} of {len(truth)} descriptions, "
        f"{right['number']} of {len(truth)} numbers. {seconds:.0f} s in all."
    )


def _text(answer: Mapping[str, object]) -> str:
    failure = answer.get("failure")
    return f"({failure['message']})" if isinstance(failure, dict) else str(answer["text"])
