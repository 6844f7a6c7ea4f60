"""A server, workers, a run and its producer, all real processes, and the check of the run's outcome.

Knows no fault: a scenario plans rows, starts processes, harms them, and asks for the result.
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from contract.broker import JOB_QUEUE, SUSPECT_QUEUE
from contract.job import ImagePath, Question
from contract.store import attempts_key, holders_key, results_key
from producer.planner import Planner
from producer.questions import Prompt
from producer.rows import Row
from producer.run_folder import RunFolder
from producer.submission import Submission
from tests.faults.result import Result
from tests.faults.server import Server
from tests.faults.short_waits import VARIABLE
from tests.faults.stub_engine import HOLD, Executions
from tests.support.processes import ROOT, spawn, start_worker
from tests.support.producer_driver import Rows

AS_SHIPPED: Final = os.environ.get("FAULT_WAITS") == "shipped"
"""Whether workers and producers wait as long as their users' do."""
SHIPPED_BOUND: Final = 4
POLL_S: Final = 0.05
SETTLE_S: Final = 10.0
"""Acknowledgements may come after the run's last record."""
STUB: Final = "tests.faults.stub_worker"
REAL: Final = "tests.faults.real_worker"
DEMO_MODEL: Final = ROOT / "demo" / "model" / "openvino"
ENDED: Final = (0, 1)
"""Of a producer that came to the end: every question answered, or some failed."""
CODES: Final = (None, *ENDED, 2, 130, -signal.SIGKILL)
"""And of one that goes on, refused, or was ended by a test. Any other is a bug."""


class Worker:
    """One Celery worker process."""

    def __init__(self, app: str, log: Path, environment: Mapping[str, str], slots: int) -> None:
        self.log = log
        self.process = start_worker(app, log, environment, concurrency=slots)

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_ready(self) -> bool:
        if " ready." in self.log.read_text():
            return True
        assert self.process.poll() is None, self.log.read_text()
        return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def is_alive(self) -> bool:
        return self.process.poll() is None


class Site:
    """Everything of one scenario, in one folder. Ends all its processes with the block."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        bound_s: float = 60.0,
        visibility_s: int = 30,
        seed: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """The scenario must be over within `bound_s`. `visibility_s` stands for the visibility timeout.

        With AS_SHIPPED no wait is shortened, and the bound is longer.
        """
        self.name = name
        self.folder = folder
        self.seed = seed
        self._deadline = time.monotonic() + bound_s * (SHIPPED_BOUND if AS_SHIPPED else 1)
        self.server = Server(folder / "server")
        self.worker_url = self.server.url
        """Where workers find the server; a proxy's, if a scenario puts one before it."""
        self.producer_url = self.server.url
        self._environment = dict(environment or {})
        if not AS_SHIPPED:
            self._environment[VARIABLE] = str(visibility_s)
        self._executions = Executions(folder)
        self.workers: list[Worker] = []
        self._producers: list[subprocess.Popen[bytes]] = []
        self.out = folder / "out"
        self._counted = True
        """Whether executions are: by stubs."""
        self._rows: dict[str, str | None] = {}
        """Row id → what its answer must be; None for any."""
        self._fault_over: float | None = None
        self._recovered: float | None = None

    def __enter__(self) -> "Site":
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._producers, *(worker.process for worker in self.workers)):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
        self.server.stop()

    # The run

    def plan(self, wishes: Iterable[str]) -> None:
        """A row for each, asked by its text alone; what a stub does is in the text (stub_engine)."""
        rows = []
        for number, wish in enumerate(wishes):
            row_id = str(len(self._rows))
            text = f"{wish} #{number}"
            self._rows[row_id] = text
            rows.append(Row(id=row_id, name=None, image=None, questions=(Question(id="q", messages=text),)))
        self._plan(rows, Submission(sources=("rows",)))

    def plan_images(self, images: Iterable[Path], **submission: Any) -> None:
        """A row for each file, asked one question of the real model."""
        self._counted = False
        rows = []
        for path in images:
            row_id = str(len(self._rows))
            self._rows[row_id] = None
            rows.append(Row(id=row_id, name=path.name, image=ImagePath.of(path)))
        prompts = (Prompt("q", "What is in the picture?"),)
        self._plan(rows, Submission(sources=("rows",), prompts=prompts, **submission))

    def _plan(self, rows: list[Row], submission: Submission) -> None:
        made = RunFolder(self.out, create=True)
        Planner(made, submission, Rows(rows)).plan()
        self.run = made.run
        made.close()

    def read_run(self) -> None:
        """The run has another id after a cancel."""
        opened = RunFolder(self.out, read_only=True)
        self.run = opened.run
        opened.close()

    def begin_run(self, name: str, wishes: Iterable[str]) -> None:
        """The next of several runs; what was executed before is another's."""
        self.out = self.folder / name
        self._rows = {}
        self._producers = []
        self._executions.forget()
        self.plan(wishes)

    def end_run(self) -> None:
        shutil.rmtree(self.out)

    def is_over(self) -> bool:
        """Whether the latest producer has come to the run's end."""
        self.check_bound()
        code = self._producers[-1].poll()
        assert code in CODES, self.logs()
        return code in ENDED and self._is_finished()

    def _is_finished(self) -> bool:
        """A traceback has the exit code of a failed question."""
        opened = RunFolder(self.out, read_only=True)
        assert opened.finished, self.logs()
        opened.close()
        return True

    def is_producing(self) -> bool:
        return self._producers[-1].poll() is None

    # Processes

    def start_worker(
        self, *, app: str = STUB, slots: int = 4, url: str | None = None, **changes: str
    ) -> Worker:
        environment = {
            "CAPTIONMILL_REDIS_URL": url or self.worker_url,
            "CAPTIONMILL_MODEL_FOLDER": str(DEMO_MODEL),
            "CAPTIONMILL_IMAGE_ROOTS": str(self.folder),
            "STUB_FOLDER": str(self.folder),
            **self._environment,
            **changes,
        }
        if app == REAL:
            environment = {name: value for name, value in environment.items() if not name.startswith("STUB")}
        log = self.folder / f"worker-{len(self.workers)}.log"
        worker = Worker(app, log, environment, slots)
        self.workers.append(worker)
        return worker

    def start_workers(self, count: int, **options: Any) -> list[Worker]:
        """Return when all are ready."""
        workers = [self.start_worker(**options) for _ in range(count)]
        for worker in workers:
            self.wait_until(worker.is_ready)
        return workers

    def produce(self, *options: str, window: int = 64, **changes: str) -> subprocess.Popen[bytes]:
        """The command, going on with the run from wherever it is."""
        arguments = (*options, "--out", str(self.out), "--redis", self.producer_url, "--window", str(window))
        command = [
            *(sys.executable, "-m", "tests.faults.producer_process"),
            *("run", "--resume", *arguments, "--json"),
        ]
        producer = spawn(command, self.folder / "producer.log", {**self._environment, **changes})
        self._producers.append(producer)
        return producer

    def kill_producers(self) -> None:
        for producer in self._producers:
            producer.kill()
            producer.wait()

    def forget(self, producer: subprocess.Popen[bytes]) -> None:
        """It has ended, and the run's end is another one's."""
        assert producer.poll() is not None, "it has ended"
        self._producers.remove(producer)

    def stop_process(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGSTOP)

    def continue_process(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGCONT)

    def command(self, name: str, *arguments: str) -> None:
        """Another command of the producer, to its end."""
        command = [sys.executable, "-m", "tests.faults.producer_process", name, *arguments]
        process = spawn(
            [*command, "--redis", self.producer_url], self.folder / f"{name}.log", self._environment
        )
        assert process.wait() == 0, self.logs()

    def make_newer(self, queue: str) -> None:
        """Every job in the queue is of a version that no worker knows yet."""
        store = self.server.connection
        for place, message in enumerate(store.lrange(queue, 0, -1)):
            envelope = json.loads(message)
            body = base64.b64decode(envelope["body"]).replace(b'"version":1', b'"version":99')
            envelope["body"] = base64.b64encode(body).decode()
            store.lset(queue, place, json.dumps(envelope))

    @property
    def hold(self) -> Path:
        """While this file exists, `wait` waits."""
        return self.folder / HOLD

    # Waiting

    def check_bound(self) -> None:
        assert time.monotonic() < self._deadline, f"{self.name}: over its bound\n{self.logs()}"

    def wait_until(self, true: Callable[[], object]) -> None:
        while not true():
            self.check_bound()
            ended = [producer.poll() for producer in self._producers]
            assert all(code in CODES for code in ended), f"{self.name}: {ended}\n{self.logs()}"
            time.sleep(POLL_S)

    def sleep(self, seconds: float) -> None:
        """As a fault lasts so long, not to wait for something."""
        time.sleep(seconds)

    def visible(self) -> int:
        """Records on disk."""
        answers = self.out / "answers.jsonl"
        return answers.read_bytes().count(b"\n") if answers.exists() else 0

    def begun(self) -> list[str]:
        """Row ids, once for each execution that was begun."""
        return [line.split()[0] for line in self._executions.lines()]

    def taken(self) -> int:
        """Messages that workers have and have not acknowledged."""
        count: int = self.server.connection.hlen("unacked")
        return count

    def fault_over(self) -> None:
        """From here on the seconds to recover are counted, to the next record on disk or the run's end."""
        before = self.visible()
        self._fault_over = time.monotonic()
        self.wait_until(lambda: self.visible() > before or self.visible() == len(self._rows))
        self._recovered = time.monotonic()

    def note_recovery(self, seconds: float) -> None:
        """A scenario's own measure."""
        self._fault_over, self._recovered = 0.0, seconds

    def logs(self) -> str:
        """The last lines of each log, for a person."""
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:])
            for log in sorted(self.folder.glob("*.log"))
        )

    # The end

    def finish(self, note: str = "") -> Result:
        """Wait for the producer's end, let the workers come to rest, and look at what is there."""
        self.wait_until(lambda: self._producers[-1].poll() is not None)
        assert self._producers[-1].returncode in ENDED, self.logs()
        self._is_finished()
        settled = time.monotonic() + SETTLE_S
        while self._leftovers() and time.monotonic() < settled and any(w.is_alive() for w in self.workers):
            time.sleep(POLL_S)
        result = self.result(note)
        result.keep()
        return result

    def result(self, note: str = "") -> Result:
        lines = [json.loads(line) for line in (self.out / "answers.jsonl").read_text().splitlines()]
        seen = Counter(line["id"] for line in lines)
        failed: Counter[str] = Counter()
        foreign = sum(count for row, count in seen.items() if row not in self._rows)
        for line in lines:
            [answer] = line["answers"]
            if "failure" in answer:
                failed[answer["failure"]["code"]] += 1
            elif line["id"] in self._rows and self._rows[line["id"]] not in (None, answer["text"]):
                foreign += 1
        executions = Counter(self.begun())
        return Result(
            name=self.name,
            jobs=len(self._rows),
            lost=len(self._rows.keys() - seen.keys()),
            twice=sum(count > 1 for count in seen.values()),
            foreign=foreign,
            executed_again=sum(executions.values()) - len(executions) if self._counted else None,
            failed=dict(failed),
            recover_s=None
            if self._recovered is None
            else round(self._recovered - (self._fault_over or 0), 1),
            left=tuple(self._leftovers()),
            note=note,
            seed=self.seed,
            waits="shipped" if AS_SHIPPED else "short",
        )

    def _has_died(self) -> bool:
        return any(worker.process.poll() not in (None, 0) for worker in self.workers)

    def _leftovers(self) -> list[str]:
        store = self.server.connection
        found = {
            "queued": store.llen(JOB_QUEUE),
            # A dead worker's messages stay for the visibility timeout, or longer.
            "unacknowledged": 0 if self._has_died() else self.taken(),
            "records": store.xlen(results_key(self.run)),
            "suspect": store.llen(SUSPECT_QUEUE),
            "attempts": store.hlen(attempts_key(self.run)),
            "held": store.hlen(holders_key(self.run)),
        }
        return [f"{count} {what}" for what, count in found.items() if count]


def process_figures(pid: int) -> tuple[int, int, int] | None:
    """Resident KiB, open descriptors and threads; None of a process that has just ended."""
    try:
        return _figures(pid)
    except (OSError, KeyError):
        return None


def _figures(pid: int) -> tuple[int, int, int]:
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return int(fields["VmRSS"].split()[0]), descriptors, int(fields["Threads"])
