"""Starts child processes that end when their parent ends, however it ends."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

STOP_S: Final = 15.0
"""Seconds from SIGTERM to SIGKILL for a child."""
PR_SET_PDEATHSIG: Final = 1


def die_with_parent(number: signal.Signals) -> Callable[[], None]:
    """A function that asks the kernel to send its process signal `number` when the parent dies."""
    parent = os.getppid() if number != signal.SIGKILL else os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        if prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl refused PR_SET_PDEATHSIG")
        if os.getppid() != parent:
            os.kill(os.getpid(), number)  # the parent has died already

    return ask


def start(
    command: list[str],
    log: Path,
    environment: Mapping[str, str | None] | None = None,
    *,
    defaults: Mapping[str, str] | None = None,
    cores: frozenset[int] | None = None,
    folder: Path | None = None,
    stdout: int | None = None,
    umask: int = -1,
) -> subprocess.Popen[bytes]:
    """Start a child whose output is appended to `log`.

    `environment` overrides inherited variables, and None removes one; `defaults` are for variables that are
    not set. `stdout` redirects the child's stdout, such as to subprocess.PIPE. `cores`, `folder` and `umask`
    are its cores, working directory and umask, by default this process's. Call it from the main thread: the
    kernel kills the child when the thread that started it ends.
    """
    inherited: dict[str, str | None] = {**(defaults or {}), **os.environ, **(environment or {})}
    die = die_with_parent(signal.SIGKILL)

    def prepare() -> None:
        die()
        if cores is not None:
            os.sched_setaffinity(0, cores)

    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output if stdout is None else stdout,
            stderr=output,
            cwd=folder,
            env={name: value for name, value in inherited.items() if value is not None},
            start_new_session=True,  # Ctrl-C goes to the parent only, which ends its children in order
            preexec_fn=prepare,
            umask=umask,
        )


def stop(process: subprocess.Popen[bytes], wait_s: float = STOP_S) -> None:
    """End a child by SIGTERM, then by SIGKILL after `wait_s` or when the wait is interrupted."""
    process.terminate()
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    except BaseException:
        process.kill()
        raise


@contextmanager
def running(
    command: list[str], log: Path, *, folder: Path | None = None, umask: int = -1, stop_s: float = STOP_S
) -> Iterator[subprocess.Popen[bytes]]:
    """A child for the length of the block."""
    process = start(command, log, folder=folder, umask=umask)
    try:
        yield process
    finally:
        stop(process, stop_s)


def last_lines(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
