"""Renders a stranger's chat template once, bounded in time and memory; knows no tokenizer and no model."""

import os
import resource
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from jinja2.exceptions import SecurityError

from worker.errors import attempt

TRIAL_S: Final = 10
TRIAL_BYTES: Final = 512 * 2**20
"""Most bytes of memory beyond what this process has."""
MOST_CHARACTERS: Final = 1_000_000
"""Most characters that a template may make of one short question."""
FINE: Final = b"fine"


def complaint(render: Callable[[], str]) -> str | None:
    """Why no worker should render this template, as a clause; None if it may.

    It is rendered in a copy of this process, as nothing else stops a loop or an allocation. To be called
    before a model is loaded, as a copy of a loaded model hangs.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _try(render, writing)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], TRIAL_S)
        reply = os.read(reading, 4096) if ready else b""
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if reply == FINE:
        return None
    return reply.decode() or f"takes more than {TRIAL_S} s or {TRIAL_BYTES // 2**20} MiB"


def _try(render: Callable[[], str], writing: int) -> None:
    """Render in the copy, which ends here in every case."""
    try:
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + TRIAL_BYTES, has + TRIAL_BYTES))
        os.write(writing, _outcome(render))
    finally:
        os._exit(0)


def _outcome(render: Callable[[], str]) -> bytes:
    made = attempt(render)
    if isinstance(made, SecurityError):
        return b"reaches for what no template needs"
    if isinstance(made, MemoryError | RecursionError):
        return b"takes too much memory"
    # A template may refuse some conversations, which shows when they are rendered.
    if isinstance(made, Exception) or len(made) <= MOST_CHARACTERS:
        return FINE
    return b"makes %d characters of a short question" % len(made)
