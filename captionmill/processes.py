"""Starts child processes that end with the one that started them, however it ends."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

STOP_S: Final = 15.0
"""Given to a child to end after SIGTERM, before SIGKILL."""
PR_SET_PDEATHSIG: Final = 1


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
    """Start a child whose output goes to the end of `log`. Call it from the main thread.

    `stdout` is another place for what it writes there, such as subprocess.PIPE.
    `environment` changes the inherited one, and None takes a variable out; `defaults` are for variables that
    are not set. `cores` are those it may run on, `folder` is where it starts and `umask` is for the files it
    makes; each is this process's own where it is not given. The kernel kills the child when the thread that
    started it ends.
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
            start_new_session=True,  # Ctrl-C reaches the command alone, which ends its children in order
            preexec_fn=prepare,
            umask=umask,
        )


def stop(process: subprocess.Popen[bytes], wait_s: float = STOP_S) -> None:
    """End a child: SIGTERM, and SIGKILL after `wait_s` or when the wait is interrupted."""
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
    """A child for as long as the block lasts."""
    process = start(command, log, folder=folder, umask=umask)
    try:
        yield process
    finally:
        stop(process, stop_s)


def last_lines(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
