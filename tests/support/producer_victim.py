"""A producer that kills itself at a named step: `python -m tests.support.producer_victim FOLDER URL STEP N`.

Without STEP it drives the run to its end. Everything but the kill is the producer's own code.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contract.broker import JOB_QUEUE
from producer.connection import connect
from producer.ledger import Ledger
from producer.queue import Queue
from producer.rows import AnsweredRow
from producer.run_folder import RunFolder
from producer.sinks.lines import LinesSink, answer_lines
from producer.sinks.output_record import OutputFile, OutputRecord
from producer.work import work_on

STEPS = (
    "before submit",
    "half of a submit",
    "after submit",
    "before commit",
    "after commit",
    "after read",
    "before trim",
    "after trim",
    "before write",
    "half a line",
    "after write",
    "finish",
    "never",
)
WINDOW = 8


class Fate:
    """Dies at the n-th time that `step` is reached."""

    def __init__(self, step: str, times: int) -> None:
        self._step = step
        self._times = times

    def reach(self, step: str) -> None:
        if step == self._step:
            self._times -= 1
            if self._times == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class DoomedQueue(Queue):
    fate: Fate

    def submit(self, jobs: Sequence[tuple[str, str]], queue: str = JOB_QUEUE, *, together: int = 1) -> None:
        self.fate.reach("before submit")
        if jobs:
            super().submit(jobs[: len(jobs) // 2], queue, together=together)
            self.fate.reach("half of a submit")
            super().submit(jobs[len(jobs) // 2 :], queue, together=together)
        self.fate.reach("after submit")


class DoomedLedger(Ledger):
    fate: Fate

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with super().transaction():
            yield
            self.fate.reach("before commit")
        self.fate.reach("after commit")


class DoomedSink(LinesSink):
    fate: Fate

    def write(self, rows: Sequence[AnsweredRow]) -> dict[str, Any]:
        self.fate.reach("before write")
        path = self._files[0][0].path
        with path.open("ab") as file:
            file.write(b'{"half": ')
        self.fate.reach("half a line")
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - len(b'{"half": '))
        place = super().write(rows)
        self.fate.reach("after write")
        return place

    def finish(self, rows: Any) -> None:  # noqa: ARG002 - the protocol's
        self.fate.reach("finish")


def doom(connection: Any, fate: Fate) -> None:
    """Wrap the two commands of collecting in steps that may kill."""
    read, trim = connection.xread, connection.xtrim

    def doomed_read(*arguments: Any, **named: Any) -> Any:
        reply = read(*arguments, **named)
        if reply:
            fate.reach("after read")
        return reply

    def doomed_trim(*arguments: Any, **named: Any) -> Any:
        fate.reach("before trim")
        reply = trim(*arguments, **named)
        fate.reach("after trim")
        return reply

    connection.xread, connection.xtrim = doomed_read, doomed_trim


def main(folder: Path, url: str, step: str, times: int) -> None:
    fate = Fate(step, times)
    connection = connect(url)
    doom(connection, fate)
    queue = DoomedQueue(url, connection)
    queue.fate = fate
    run_folder = RunFolder(folder)
    run_folder.ledger.close()
    ledger = DoomedLedger(folder)
    ledger.fate = fate
    run_folder.ledger = ledger
    run_folder.record = OutputRecord(ledger, folder)
    file = OutputFile(folder / "doomed.jsonl", run_folder.record, "jsonl")
    sink = DoomedSink("doomed", [(file, answer_lines)])
    sink.fate = fate
    with work_on(
        run_folder, connection, queue, feed=True, collect=True, window=WINDOW, further_sinks=(sink,)
    ) as work:
        for _ in work.run.rounds():
            pass
        work.finish(keep_done_s=3600)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
