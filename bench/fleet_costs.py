"""Measures what a worker and a job cost server and producer, with real processes; simulates nothing."""

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.queueing import Rows
from bench.server import celery_worker, cpu_s, process, server
from contract.store import WORKERS_KEY
from producer.connection import connect
from producer.planner import Planner
from producer.questions import read_prompts
from producer.queue import Queue
from producer.run import Run
from producer.run_folder import RunFolder
from producer.submission import Submission
from producer.work import work_on

IDLE_S: Final = 20.0
CALIBRATION_ROWS: Final = 6000
CALIBRATION_JOB_S: Final = 0.01
START_S: Final = 120.0


@dataclass(frozen=True)
class Costs:
    """Processor time in seconds of one core, and sizes."""

    server_s_per_job: float
    server_s_per_worker_s: float
    """Time of the server for each second of a worker, busy or not."""
    producer_s_per_job: float
    """Time to send, collect and write one job in one process."""
    worker_s_per_job: float
    """Time of a worker for Celery and the store."""
    connections_per_worker: float
    ledger_bytes_per_job: float
    store_bytes_per_open_job: float


class Site:
    """A server and workers that only sleep."""

    def __init__(self, folder: Path, url: str, stack: ExitStack) -> None:
        self.folder = folder
        self.url = url
        self.connection = connect(url)
        self.workers: list[Any] = []
        self._stack = stack
        self._runs = 0

    def start_worker(self, slots: int) -> Any:
        """Start a worker, and return when it has reported."""
        number = len(self.workers)
        command = celery_worker("bench.sleep_worker", slots, "-l", "WARNING", "-n", f"sleeper{number}@%h")
        settings = {
            "CAPTIONMILL_REDIS_URL": self.url,
            "CAPTIONMILL_MODEL_FOLDER": str(self.folder),
            "CAPTIONMILL_IMAGE_ROOTS": str(self.folder),
        }
        known = self._told()
        started = self._stack.enter_context(process(command, self.folder / f"worker{number}.log", settings))
        self.workers.append(started)
        deadline = time.monotonic() + START_S
        while not self._told() - known:
            assert time.monotonic() < deadline, "the worker does not start"
            time.sleep(0.1)
        return started

    def _told(self) -> set[Any]:
        told: Any = self.connection.hkeys(WORKERS_KEY)
        return set(told)

    def kill(self, number: int) -> None:
        self.workers[number].send_signal(signal.SIGKILL)
        self.workers[number].wait()

    def planned(self, rows: int, job_s: float) -> RunFolder:
        self._runs += 1
        made = RunFolder(self.folder / f"run {self._runs}", create=True)
        submission = Submission(sources=("rows",), prompts=read_prompts([str(job_s)], None, None))
        Planner(made, submission, Rows(rows)).plan()
        return made

    def run(self, made: RunFolder, look: Any = lambda _: None) -> float:
        """Seconds until the last answer is on disk; `look` is called with each round."""
        queue = Queue(self.url, self.connection)
        begun = time.monotonic()
        with work_on(made, self.connection, queue, feed=True, collect=True) as work:
            run: Run = work.run
            for round_ in run.rounds():
                look(round_)
            work.finish(keep_done_s=1)
        queue.close()
        return time.monotonic() - begun

    def server_s(self) -> float:
        """Processor time of the server so far, in seconds."""
        spent: Any = self.connection.info("cpu")
        return float(spent["used_cpu_sys"] + spent["used_cpu_user"])

    def worker_s(self) -> float:
        return sum(cpu_s(worker.pid) for worker in self.workers if worker.poll() is None)

    def connections(self) -> int:
        clients: Any = self.connection.info("clients")
        return int(clients["connected_clients"])

    def used_bytes(self) -> int:
        memory: Any = self.connection.info("memory")
        return int(memory["used_memory"])


@contextmanager
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="captionmill-") as name, ExitStack() as stack:
        url = stack.enter_context(server(Path(name)))
        yield Site(Path(name), url, stack)


def measure(slots: int) -> Costs:
    """The costs with workers of `slots` slots; takes about a minute."""
    with site() as here:
        before = here.connections()
        empty_s = here.server_s()
        time.sleep(IDLE_S)
        empty_s = here.server_s() - empty_s
        here.start_worker(slots)
        here.start_worker(slots)
        # A worker opens connections when it is first busy, and keeps them.
        here.run(here.planned(8 * slots, CALIBRATION_JOB_S))
        idle = here.server_s()
        time.sleep(IDLE_S)
        idle_s = (here.server_s() - idle - empty_s) / IDLE_S / len(here.workers)
        connections = (here.connections() - before) / len(here.workers)
        made = here.planned(CALIBRATION_ROWS, CALIBRATION_JOB_S)
        empty = here.used_bytes()
        server, own, workers = here.server_s(), time.process_time(), here.worker_s()
        held: list[tuple[int, int]] = []
        seconds = here.run(made, lambda round_: held.append((round_.in_flight, here.used_bytes())))
        spent = here.server_s() - server - seconds * idle_s * len(here.workers)
        most_open, most_bytes = max(held)
        return Costs(
            server_s_per_job=spent / CALIBRATION_ROWS,
            server_s_per_worker_s=idle_s,
            producer_s_per_job=(time.process_time() - own) / CALIBRATION_ROWS,
            worker_s_per_job=(here.worker_s() - workers) / CALIBRATION_ROWS,
            connections_per_worker=connections,
            ledger_bytes_per_job=(made.path / "ledger.sqlite").stat().st_size / CALIBRATION_ROWS,
            store_bytes_per_open_job=(most_bytes - empty) / most_open,
        )
