"""Local mode: a server and workers as child processes of one command; knows no run."""

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
"""Subfolder of a run's folder, with data and logs of its server and workers."""
DATA: Final = ("appendonlydir", "valkey.conf")
CONCURRENCY: Final = 8
"""Jobs that each worker takes at once, the default of `captionmill worker`."""
DRAIN_S: Final = 5
"""Seconds for a stopped worker to finish its jobs; the rest is asked again when the run goes on."""
PASSING: Final = "passing.lock"
"""Lock file of the command that uses the folder; `lock` beside it is the server's."""
REFUSES: Final = "captionmill worker: "
"""Beginning of a worker's sentence that says why it does not start."""
LAST_LINES: Final = 15
LOOK_EVERY_S: Final = 0.05
"""Seconds between two looks for the first worker."""


class SiteError(CaptionmillError):
    """The server or a worker of this command cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class LocalWorkers:
    """The workers that a command starts."""

    model_folder: Path
    image_roots: tuple[Path, ...]
    count: int = 1
    devices: tuple[str, ...] = ("CPU",)
    """Devices, given to the workers in turn."""

    def described(self) -> str:
        """Such as "2 workers on CPU"."""
        return f"{counted(self.count, 'worker')} on {' and '.join(self.devices)}"


class LocalSite:
    """A running server and its workers.

    For the main thread only: the kernel kills a child when the thread that started it ends.
    """

    def __init__(self, folder: Path, server: EmbeddedServer, workers: LocalWorkers) -> None:
        self.url = server.url
        self._folder = folder
        self._server = server
        self._wanted = workers
        self._shares = core_shares(workers.count, workers.devices)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._been_ready = False
        self._begins: dict[int, int] = {}
        """Number of a worker → size of its log in bytes before this start."""

    def start_workers(self, stopped: Sequence[int]) -> None:
        """Start all workers and wait until the first one takes jobs.

        Raises SiteError if a worker cannot start, and KeyboardInterrupt once a signal is in `stopped`.
        """
        with redis.Redis.from_url(self.url) as connection:
            # Workers of an earlier command are gone; without their records, their jobs are free at once.
            connection.delete(WORKERS_KEY)
            self._processes = [self._start(number) for number in range(self._wanted.count)]
            while not connection.hlen(WORKERS_KEY):
                self.check()
                if stopped:
                    raise KeyboardInterrupt
                time.sleep(LOOK_EVERY_S)
        self._been_ready = True

    def check(self) -> None:
        """Restart workers that have ended.

        Raises SiteError if the server has ended, or a worker before any was ready.
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
        """The worker's own sentence, or else the end of what it wrote since its start."""
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
            # On one core a worker starts only with this; it says so if the user sets another.
            defaults["CAPTIONMILL_PRECISION"] = "exact"
        # -P: do not import a worker.py from the current folder.
        command = [
            *(sys.executable, "-P", "-m", "captionmill", "worker"),
            *("--concurrency", str(CONCURRENCY)),
        ]
        return start(command, self._log(number), environment, defaults=defaults, cores=cores)


def core_shares(count: int, devices: Sequence[str]) -> list[frozenset[int]]:
    """The cores of each of `count` workers, whose devices are given in turn.

    Workers on CPU divide the cores, others may use all. Raises SiteError if a worker would get no core.
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
    """The server without workers, on the data of an earlier one in `folder`. Raises SiteError."""
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
    """A server and workers that take jobs, for the length of the block; data and logs are in `folder`.

    Jobs and records of an earlier command are still there. Raises SiteError, and KeyboardInterrupt if a
    signal appears in `stopped` before a worker is ready.
    """
    with local_server(folder) as server:
        site = LocalSite(folder, server, workers)
        try:
            site.start_workers(stopped)
            yield site
        finally:
            site.stop_workers()


def forget_data(folder: Path) -> None:
    """Remove the server's data, when none of it is needed any more. Logs stay."""
    for name in DATA:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def passing_folder(cache: Path) -> Iterator[Path]:
    """A temporary folder for one command. Folders of killed commands are removed as well."""
    parent = cache / "local"
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f"{os.getpid()}-{time.time_ns()}"
    with ExitStack() as kept:
        # Otherwise another command could remove the new folder before it is locked.
        with only_one(parent, wait=True):
            for left in parent.iterdir():
                try:
                    with only_one(left, PASSING):
                        shutil.rmtree(left, ignore_errors=True)
                except (FolderInUseError, OSError):
                    continue  # in use, or the lock file
            folder.mkdir(mode=0o700)
            kept.enter_context(only_one(folder, PASSING))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
