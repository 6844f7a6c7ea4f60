"""An engine that does what a question's text says, and a model that passes the text on; knows no broker.

A text is `VERB [ARGUMENT] [xTIMES] #ROW`. With TIMES, only the first so many executions of the row do it, and
later ones answer. The answer is the text itself. Each execution begun is a line in a file, whatever follows.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final, NoReturn

import numpy as np

from contract.job import Question
from tests.support.fakes import HIDDEN, RAISED, FakeModel, FakePrompt
from worker.engine.request import Generation, Generations, Request

TEXT: Final = re.compile(
    r"(?P<verb>[a-z-]+)(?: (?P<argument>[A-Za-z0-9.]+))??(?: x(?P<times>\d+))? #(?P<row>.+)"
)
EXECUTIONS: Final = "executions"
HOLD: Final = "hold"
"""Names in the stub's folder: the file of executions, and the one that `wait` waits for to vanish."""
POLL_S: Final = 0.01
MIB: Final = 2**20
DEADLY: Final = ("segv", "kill", "abort", "exit", "hang")
BREAKERS: Final = ("fail-prompt",)
"""Verbs that the model does in the task's thread; the engine does the others in one of its own."""


class Executions:
    """A file with a line per execution that was begun: row, process id, Unix time. Outlives every process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / EXECUTIONS

    def note(self, row: str) -> int:
        """Returns how often the row was begun, this time included."""
        with self._path.open("ab", buffering=0) as file:
            file.write(f"{row} {os.getpid()} {time.time():.3f}\n".encode())
        return sum(line.split(maxsplit=1)[0] == row for line in self.lines())

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)

    def lines(self) -> list[str]:
        return self._path.read_text().splitlines() if self._path.exists() else []


class StubModel(FakeModel):
    """One token per character, there and back."""

    model_id = "stub"

    def __init__(self, executions: Executions) -> None:
        super().__init__()
        self._executions = executions

    def prompt(self, question: Question, features: tuple[int, ...] | None) -> FakePrompt:  # noqa: ARG002
        [turn] = question.turns(with_image=False)
        text = turn.content if isinstance(turn.content, str) else turn.content[0].text  # type: ignore[union-attr]
        told = TEXT.fullmatch(text)
        if told is not None and told["verb"] in BREAKERS:
            self._executions.note(told["row"])
            raise RAISED[told["argument"]]
        token_ids = np.array([ord(character) for character in text], dtype=np.int64)
        return FakePrompt(token_ids, np.ones((len(text), HIDDEN), dtype=np.float32), 0, 0, None)

    def decode(self, token_ids: Sequence[int], stop: Sequence[str]) -> str:  # noqa: ARG002 - the protocol's
        return "".join(map(chr, token_ids))


class StubEngine:
    """Generates for up to `rows` requests at once, each in its own daemon thread."""

    def __init__(self, folder: Path, executions: Executions, rows: int, *, immune: bool = False) -> None:
        """One that is immune answers what would end its process."""
        self._immune = immune
        self._hold = folder / HOLD
        self._executions = executions
        self._rows = threading.Semaphore(rows)

    def submit(self, request: Request) -> Future[Generations]:
        generation: Future[Generations] = Future()
        threading.Thread(target=self._generate, args=(request, generation), daemon=True).start()
        return generation

    def close(self) -> None:
        """Nothing to end: threads end with the process."""

    def _generate(self, request: Request, generation: Future[Generations]) -> None:
        with self._rows:
            if not generation.set_running_or_notify_cancel():
                return
            token_ids = tuple(map(int, request.token_ids))
            try:
                self._do("".join(map(chr, token_ids)))
            except BaseException as error:  # noqa: BLE001 - it is whoever waits that must cope
                generation.set_exception(error)
            else:
                generation.set_result((Generation(token_ids, "stop", score=-0.5, mean_log_prob=-0.5),))

    def _do(self, text: str) -> None:
        told = TEXT.fullmatch(text)
        if told is None:
            # The warm-up, or a question of a test that has no wishes.
            return
        begun = self._executions.note(told["row"])
        if told["times"] is not None and begun > int(told["times"]):
            return
        if self._immune and told["verb"] in DEADLY:
            return
        verb, argument = told["verb"], told["argument"]
        if verb == "sleep":
            time.sleep(float(argument))
        elif verb == "wait":
            while self._hold.exists():
                time.sleep(POLL_S)
        elif verb == "raise":
            raise RAISED[argument]
        elif verb == "hog":
            _hog(int(argument))
        else:
            _die(verb)


def _hog(mib: int) -> None:
    taken = [bytearray(os.urandom(1) * MIB) for _ in range(mib)]
    time.sleep(0.1)
    assert taken


def _die(verb: str) -> NoReturn:
    """Ends the process in ways without an exception, or never returns."""
    if verb == "hang":
        threading.Event().wait()
    if verb == "exit":
        os._exit(7)
    signals = {"segv": signal.SIGSEGV, "kill": signal.SIGKILL, "abort": signal.SIGABRT}
    os.kill(os.getpid(), signals[verb])
    # A signal to the process may be delivered in another thread; this one does nothing more.
    threading.Event().wait()
    raise AssertionError("unreachable")
