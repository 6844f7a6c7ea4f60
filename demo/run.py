"""The demo command: a broker, a worker and a producer as processes of their own, on the sample images.

It starts them, shows what came of it and stops what it started; it answers no question itself.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console
from rich.table import Table

from demo.processes import DemoError, die_with_parent, server, tail, temporary_folder, worker
from demo.samples import DESCRIBE_QUESTION, IMAGES, NUMBER_QUESTION, Truth, read_truth

MARKER: Final = ".captionmill-demo"
"""In a folder that the demo made, which it may remove."""
LEDGER: Final = "ledger.sqlite"
"""In every run's folder."""


class Stopped(Exception):  # noqa: N818 - no error: somebody asked for it
    """A signal to stop has come."""


def main(out: Path, *, stop_with_parent: bool = False) -> int:
    """Runs the demo and returns its exit code: the producer's, or 130 after Ctrl-C or another stop signal."""
    console = Console()
    if stop_with_parent:
        die_with_parent(signal.SIGTERM)()
    go_on = _catch_stop_signals()
    started = time.monotonic()
    try:
        with ExitStack() as stack:
            _clear(out)
            server_folder = stack.enter_context(temporary_folder())
            port = stack.enter_context(server(server_folder, go_on))
            url = f"redis://127.0.0.1:{port}/0"
            worker_log = out / "worker.log"
            started_worker = stack.enter_context(worker(url, worker_log))
            console.print(f"Broker on port {port}, worker {started_worker.pid} (its log: {worker_log})")
            code = _produce(url, out, started_worker, worker_log, go_on)
            if (out / "answers.jsonl").exists():
                _show(console, out, time.monotonic() - started)
            return code
    except DemoError as error:
        print(f"captionmill demo: {error}", file=sys.stderr)
        return 1
    except Stopped:
        print("captionmill demo: stopped, and its processes with it.", file=sys.stderr)
        return 130


def _catch_stop_signals() -> Callable[[], None]:
    """A call that raises Stopped once Ctrl-C, SIGTERM or SIGHUP has come.

    An exception out of the handler itself could be lost in an import, or leave a process behind half-started.
    """
    caught: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        caught.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, note)

    def go_on() -> None:
        if caught:
            raise Stopped

    return go_on


def _clear(out: Path) -> None:
    """Makes room for this demo where an earlier one was. Raises DemoError for a folder with another run."""
    if (out / MARKER).exists():
        shutil.rmtree(out)
    elif (out / LEDGER).exists():
        raise DemoError(f"{out} holds a run that is not the demo's; choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def _produce(
    url: str, out: Path, worker: subprocess.Popen[bytes], worker_log: Path, go_on: Callable[[], None]
) -> int:
    """Runs the producer in the foreground; ends it if the worker dies. Returns its exit code."""
    command = [
        *(sys.executable, "-m", "producer", "run", str(IMAGES), "--out", str(out), "--redis", url),
        *("--question", DESCRIBE_QUESTION, "--question", NUMBER_QUESTION),
    ]
    producer = subprocess.Popen(command, preexec_fn=die_with_parent(signal.SIGKILL))
    try:
        while (code := producer.poll()) is None:
            go_on()
            if worker.poll() is not None:
                raise DemoError(f"the worker ended early:\n{tail(worker_log)}")
            time.sleep(0.05)
        go_on()
        return code
    finally:
        producer.terminate()
        producer.wait()


def _show(console: Console, out: Path, seconds: float) -> None:
    """Image → answers, and how many of them are right."""
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
    console.print(
        f"Answers: {out / 'answers.jsonl'}\nTo look at: {out / 'contact_sheet.html'}", soft_wrap=True
    )


def _text(answer: Mapping[str, object]) -> str:
    failure = answer.get("failure")
    return f"({failure['message']})" if isinstance(failure, dict) else str(answer["text"])
