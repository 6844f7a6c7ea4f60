"""Runs one engine in a child process; knows neither the engine nor what is compared."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.peers.protocol import Counts, Reply, Setup, Task

ROOT = Path(__file__).parent.parent
CLOSING_S = 30
LOG_LINES = 20


class PeerError(Exception):
    """A peer did not answer as asked; the only exception of bench.

    If the process has ended, the message quotes its log.
    """


@dataclass(frozen=True)
class Program:
    """A module of bench.peers, its Python interpreter, and what it loads."""

    module: str
    python: str
    setup: Setup


class Peer:
    """A loaded engine in a child process, which computes only while it is asked."""

    def __init__(self, program: Program, log: Path) -> None:
        """Start and load the engine, with stderr appended to `log`. Raises PeerError."""
        self._log = log
        self._name = program.module
        # Passive: threads that spin between two tasks would slow down the other engines.
        command = ["env", "OMP_WAIT_POLICY=PASSIVE", program.python, "-m", program.module]
        with log.open("a", encoding="utf-8") as stderr:
            self._child = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._exchange(asdict(program.setup))

    def answer(self, task: Task) -> Reply:
        """The reply to a task. Raises PeerError if the process ends."""
        reply = self._exchange(asdict(task))
        return Reply(Counts(**reply.pop("counts")), **reply)

    def close(self) -> None:
        """End the process."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _exchange(self, line: dict[str, Any]) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            print(json.dumps(line), file=self._child.stdin, flush=True)
        except BrokenPipeError:
            raise self._gone() from None
        answer = self._child.stdout.readline()
        if not answer:
            raise self._gone()
        reply: dict[str, Any] = json.loads(answer)
        return reply

    def _gone(self) -> PeerError:
        code = self._child.wait()
        end = self._log.read_text(encoding="utf-8").splitlines()[-LOG_LINES:]
        return PeerError("\n".join([f"{self._name} ended with {code}; {self._log} ends in:", *end]))


class Pool:
    """The loaded peers, at most one for each program."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._peers: list[tuple[Program, Peer]] = []

    def only(self, programs: Sequence[Program]) -> None:
        """Close all other peers, to free their memory."""
        for program, peer in self._peers:
            if program not in programs:
                peer.close()
        self._peers = [(program, peer) for program, peer in self._peers if program in programs]

    def discard(self, program: Program) -> None:
        """Close the peer of a program, if it is loaded."""
        self.only([known for known, _ in self._peers if known != program])

    def peer(self, program: Program) -> tuple[Peer, bool]:
        """The loaded peer, and whether it was loaded just now."""
        for known, peer in self._peers:
            if known == program:
                return peer, False
        peer = Peer(program, self._logs / f"{program.module.rpartition('.')[2]}.log")
        self._peers.append((program, peer))
        return peer, True
