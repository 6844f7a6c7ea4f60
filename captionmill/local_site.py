"""Local mode: a server and workers of one command's own, as its child processes.

Answers nothing itself and knows no run: the queue, the ledger and the workers work as on a large site.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from captionmill.embedded_server import EmbeddedServer, EmbeddedServerError, embedded_server, new_password
from captionmill.errors import CaptionmillError
from captionmill.folder_lock import FolderInUseError, only_one
from captionmill.processes import last_lines, start, stop
from contract.counting import counted
from contract.store import WORKERS_KEY

LOCAL_FOLDER: Final = ".local"
"""In a run's folder: the data and logs of its own server and workers."""
DATA: Final = ("appendonlydir", "valkey.conf")
CONCURRENCY: Final = 8
"""Jobs that each worker takes at once, as `captionmill worker` does by default."""
DRAIN_S: Final = 5
"""Whoever stops a local run waits; what is not finished by then is asked again when the run goes on."""
PASSING: Final = "passing.lock"
"""Held by the command whose folder it is; `lock` beside it is the server's."""
REFUSES: Final = "captionmill worker: "
"""How a worker begins the sentence that says why it does not start."""
LAST_LINES: Final = 15
LOOK_EVERY_S: Final = 0.05


class SiteError(CaptionmillError):
    """Server or workers of this command cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class LocalWorkers:
    """Which workers a command starts for itself."""

    model_folder: Path
    image_roots: tuple[Path, ...]
    count: int = 1
    devices: tuple[str, ...] = ("CPU",)
    """Dealt to the workers in turn."""

    def described(self) -> str:
        """For a sentence: "2 workers on CPU"."""
        return f"{counted(self.count, 'worker')} on {' and '.join(self.devices)}"


class LocalSite:
    """Server and workers that are running. For the main thread, as the kernel ends children with theirs."""

    def __init__(self, folder: Path, server: EmbeddedServer, workers: LocalWorkers) -> None:
        self.url = server.url
        self._folder = folder
        self._server = server
        self._wanted = workers
        self._shares = core_shares(workers.count, workers.devices)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._been_ready = False
        self._begins: dict[int, int] = {}
        """Number of a worker to the bytes that its log had before."""

    def start_workers(self, stopped: Sequence[int]) -> None:
        """Start all, and wait until the first one takes jobs.

        Raises SiteError if one cannot start, and KeyboardInterrupt once a signal is in `stopped`.
        """
        with redis.Redis.from_url(self.url) as connection:
            # Workers of an earlier command are gone for certain: what they held is free at once.
            connection.delete(WORKERS_KEY)
            self._processes = [self._start(number) for number in range(self._wanted.count)]
            while not connection.hlen(WORKERS_KEY):
                self.check()
                if stopped:
                    raise KeyboardInterrupt
                time.sleep(LOOK_EVERY_S)
        self._been_ready = True

    def check(self) -> None:
        """Start again a worker that has ended after it was ready, as a supervisor would.

        Raises SiteError when the server has ended, or a worker before any was ready.
        """
        if self._server.process.poll() is not None:
            log = self._server.log
            raise SiteError(f"The embedded Valkey server has ended; the end of {log}:\n{last_lines(log)}")
        for number, process in enumerate(self._processes):
            if process.poll() is None:
                continue
            if not self._been_ready:
                raise SiteError(self._why_none_starts(number))
            self._processes[number] = self._start(number)

    def stop_workers(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            stop(process)

    def _why_none_starts(self, number: int) -> str:
        """The worker's own sentence if it gave one, else the end of what it wrote this time."""
        log = self._log(number)
        said = log.read_bytes()[self._begins[number] :].decode(errors="replace").strip().splitlines()
        sentences = [line for line in said if line.startswith(REFUSES)]
        if sentences:
            return f"The worker cannot start: {sentences[-1].removeprefix(REFUSES)} (Its log: {log})"
        return "\n".join((f"The worker cannot start; the end of {log}:", *said[-LAST_LINES:]))

    def _log(self, number: int) -> Path:
        return self._folder / f"worker-{number + 1}.log"

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        wanted = self._wanted
        self._begins[number] = self._log(number).stat().st_size if self._log(number).exists() else 0
        device = wanted.devices[number % len(wanted.devices)]
        environment: dict[str, str | None] = {
            "CAPTIONMILL_REDIS_URL": self.url,
            "CAPTIONMILL_REDIS_PASSWORD_FILE": None,
            "CAPTIONMILL_MODEL_FOLDER": str(wanted.model_folder),
            "CAPTIONMILL_IMAGE_ROOTS": os.pathsep.join(map(str, wanted.image_roots)),
            "CAPTIONMILL_DEVICE": device,
        }
        defaults = {"CAPTIONMILL_DRAIN_S": str(DRAIN_S)}
        cores = self._shares[number]
        if device == "CPU" and len(cores) == 1:
            # A worker refuses to start on one core without it; whoever sets another is told so.
            defaults["CAPTIONMILL_PRECISION"] = "exact"
        # -P: a worker.py in the folder where the command was started is not ours.
        command = [
            *(sys.executable, "-P", "-m", "captionmill", "worker"),
            *("--concurrency", str(CONCURRENCY)),
        ]
        return start(command, self._log(number), environment, defaults=defaults, cores=cores)


def core_shares(count: int, devices: Sequence[str]) -> list[frozenset[int]]:
    """The cores of each of `count` workers, to which the devices are dealt in turn.

    Workers on CPU divide all cores among them, the others use any. Raises SiteError where a worker would have
    no core.
    """
    cores = sorted(os.sched_getaffinity(0))
    on_cpu = [number for number in range(count) if devices[number % len(devices)] == "CPU"]
    if len(on_cpu) > len(cores):
        raise SiteError(
            f"This machine has {counted(len(cores), 'core')}, so at most "
            f"{counted(len(cores), 'worker')} can share the CPU: "
            f"--workers {count} is too many."
        )
    shares = [frozenset(cores)] * count
    for place, number in enumerate(on_cpu):
        begin, end = (len(cores) * edge // len(on_cpu) for edge in (place, place + 1))
        shares[number] = frozenset(cores[begin:end])
    return shares


@contextmanager
def local_server(folder: Path) -> Iterator[EmbeddedServer]:
    """The server alone, on what `folder` holds of an earlier one. Raises SiteError."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with only_one(folder), embedded_server(folder, password=new_password()) as server:
            yield server
    except FolderInUseError:
        raise SiteError(f"Another captionmill command is at work in {folder.parent}.") from None
    except EmbeddedServerError as error:
        raise SiteError(f"{error}; the end of {error.log}:\n{last_lines(error.log)}") from None


@contextmanager
def local_site(folder: Path, workers: LocalWorkers, stopped: Sequence[int] = ()) -> Iterator[LocalSite]:
    """Server and workers that take jobs, for as long as the block lasts; data and logs are in `folder`.

    What an earlier command left there, jobs and records, is still there. A signal that is put into `stopped`
    ends the wait for the workers by KeyboardInterrupt. Raises SiteError.
    """
    with local_server(folder) as server:
        site = LocalSite(folder, server, workers)
        try:
            site.start_workers(stopped)
            yield site
        finally:
            site.stop_workers()


def forget_data(folder: Path) -> None:
    """Remove what the server kept, once nothing of the run is in it any more. Logs stay."""
    for name in DATA:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def passing_folder(cache: Path) -> Iterator[Path]:
    """A folder for one command that keeps nothing. Those of commands that were killed are removed, too."""
    parent = cache / "local"
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f"{os.getpid()}-{time.time_ns()}"
    with ExitStack() as kept:
        # Nobody looks for folders that are left behind while one is made that nobody holds yet.
        with only_one(parent, wait=True):
            for left in parent.iterdir():
                try:
                    with only_one(left, PASSING):
                        shutil.rmtree(left, ignore_errors=True)
                except (FolderInUseError, OSError):
                    continue  # in use, or the lock
            folder.mkdir(mode=0o700)
            kept.enter_context(only_one(folder, PASSING))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
