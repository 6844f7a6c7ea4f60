"""Simulates a fleet of workers on one server and one producer, with failures; starts no process.

Jobs are a fluid and failures are events. In each step of some seconds, the slowest of producer, server and
workers determines how many jobs pass. bench/fleet_costs.py measures what each costs.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from bench.fleet_costs import Costs
from contract.store import MOST_ATTEMPTS
from producer.pacing import FEW
from producer.window import SMALLEST_WINDOW, WINDOW_PER_SLOT

Part = Literal["workers", "server", "producer", "window", "machine"]
STEP_S: Final = 2.0
LONGEST: Final = 50.0
"""Longest simulated time, as a multiple of the time without failures and limits."""
DETECT_S: Final = 30.0
"""Seconds from a worker's death until its jobs are sent again: WORKER_SILENT_S and two looks."""


@dataclass(frozen=True)
class Fleet:
    """The work, the parts and how often they fail; a mean time of infinity means never."""

    images: float
    workers: int
    images_per_worker_s: float
    """Rate of one worker with all slots busy."""
    slots: int = 16
    alone_s: float = 1.0
    """Seconds of a job that is alone in its worker, as suspects are."""
    worker_mtbf_s: float = math.inf
    worker_restart_s: float = 120.0
    server_mtbf_s: float = math.inf
    server_down_s: float = 3.0
    producer_mtbf_s: float = math.inf
    producer_restart_s: float = 60.0
    poison: float = 0.0
    """Share of jobs that kill the worker in every attempt, until they fail."""
    shared_cores: float = math.inf
    """Cores, if one machine runs everything, to compare with real processes."""


@dataclass(frozen=True)
class Outcome:
    """The result of a simulated run."""

    seconds: float
    ideal_s: float
    """Seconds without failures and without limits of server and producer."""
    limit: Part
    """The part that was slowest most of the time."""
    server_use: float
    """Share of one core; above 1, the workers' polling alone is too much."""
    producer_use: float
    worker_deaths: int
    executed_again: int
    """Jobs that were begun again."""
    most_store_bytes: float
    ledger_bytes: float
    connections: float


def limits(fleet: Fleet, costs: Costs, alive: float) -> dict[Part, float]:
    """Part → the most jobs per second that it lets pass, with `alive` workers."""
    idle = alive * costs.server_s_per_worker_s
    everything = costs.server_s_per_job + costs.producer_s_per_job + costs.worker_s_per_job
    return {
        "workers": alive * min(fleet.images_per_worker_s, 1.0 / costs.worker_s_per_job),
        "server": max(0.0, 1.0 - idle) / costs.server_s_per_job,
        "producer": 1.0 / costs.producer_s_per_job,
        # A job leaves the window when its answer is collected, which waits for FEW answers.
        "window": (_window(fleet) - FEW) * fleet.images_per_worker_s / fleet.slots,
        "machine": max(0.0, fleet.shared_cores - idle) / everything,
    }


class Simulation:
    """The state of a simulated run, advanced step by step."""

    def __init__(self, fleet: Fleet, costs: Costs, seed: int, step_s: float) -> None:
        self._fleet = fleet
        self._costs = costs
        self._step_s = step_s
        self._random = np.random.default_rng(seed)
        self._window = _window(fleet)
        self._alive = fleet.workers
        self._returning: deque[tuple[float, int]] = deque()
        """(time, number of workers that are back then), in order."""
        self._missed: deque[tuple[float, int]] = deque()
        """(time, number of jobs of dead workers that are sent again then), in order."""
        self._suspects = 0.0
        self._queued = self._window
        """Jobs that can be answered while the producer is away."""
        self._server_until = self._producer_until = 0.0
        self.now = self.done = 0.0
        self.deaths = self.executed_again = 0
        self.server_s = self.producer_s = 0.0
        self.limited: dict[Part, float] = {}

    def step(self) -> None:
        self._break()
        self._mend()
        most = limits(self._fleet, self._costs, self._alive)
        most["workers"] *= 1 - self._answer_suspects()
        slowest: Part = min(most, key=lambda part: most[part])
        self.limited[slowest] = self.limited.get(slowest, 0.0) + self._step_s
        passed = self._pass(most[slowest])
        self._kill(passed, most[slowest] / most["workers"] if most["workers"] else 0.0)
        self.server_s += passed * self._costs.server_s_per_job
        self.server_s += self._alive * self._costs.server_s_per_worker_s * self._step_s
        self.producer_s += passed * self._costs.producer_s_per_job
        self.now += self._step_s

    def _draw(self, expected: float) -> int:
        return int(self._random.poisson(expected)) if expected else 0

    def _break(self) -> None:
        if self._draw(self._step_s / self._fleet.server_mtbf_s):
            self._server_until = self.now + self._fleet.server_down_s
        if self._draw(self._step_s / self._fleet.producer_mtbf_s):
            self._producer_until = self.now + self._fleet.producer_restart_s

    def _mend(self) -> None:
        while self._returning and self._returning[0][0] <= self.now:
            self._alive += self._returning.popleft()[1]
        while self._missed and self._missed[0][0] <= self.now:
            self._suspects += self._missed.popleft()[1]

    def _answer_suspects(self) -> float:
        """Answer suspects; returns the share of the workers' time that this takes."""
        time_s = self._alive * self._step_s
        if not self._suspects or not time_s:
            return 0.0
        answered = min(self._suspects, time_s / self._fleet.alone_s)
        self._suspects -= answered
        self.done += answered
        return answered * self._fleet.alone_s / time_s

    def _pass(self, rate: float) -> float:
        up_s = self._step_s - min(self._step_s, max(0.0, self._server_until - self.now))
        missed = sum(count for _, count in self._missed)
        passed = min(rate * up_s, self._fleet.images - self.done - self._suspects - missed)
        if self.now < self._producer_until:
            passed = min(passed, self._queued)
            self._queued -= passed
        else:
            self._queued = self._window
        passed = max(0.0, passed)
        self.done += passed
        return passed

    def _kill(self, passed: float, busy: float) -> None:
        """Let workers die; on average, half of the work on their jobs is lost."""
        expected = self._alive * self._step_s / self._fleet.worker_mtbf_s
        killed = self._draw(expected + passed * self._fleet.poison * MOST_ATTEMPTS)
        died = min(killed, self._alive)
        if not died:
            return
        left = self._fleet.images - self.done - self._suspects - sum(count for _, count in self._missed)
        lost = int(min(died * self._fleet.slots * busy, left))
        self._alive -= died
        self.deaths += died
        self.executed_again += lost
        self.done -= min(self.done, lost / 2)
        self._returning.append((self.now + self._fleet.worker_restart_s, died))
        self._missed.append((self.now + DETECT_S, lost))


def simulate(fleet: Fleet, costs: Costs, seed: int = 0, step_s: float = STEP_S) -> Outcome:
    """Simulate to the last image. Raises ValueError if that takes more than LONGEST ideal times."""
    run = Simulation(fleet, costs, seed, step_s)
    ideal_s = fleet.images / (fleet.workers * fleet.images_per_worker_s)
    while run.done < fleet.images - 1e-6:
        run.step()
        if run.now > LONGEST * ideal_s:
            raise ValueError(f"After {run.now:.0f} s {run.done:.0f} of {fleet.images:.0f} images are done.")
    return Outcome(
        seconds=run.now,
        ideal_s=ideal_s,
        limit=max(run.limited, key=lambda part: run.limited[part]),
        server_use=run.server_s / run.now,
        producer_use=run.producer_s / run.now,
        worker_deaths=run.deaths,
        executed_again=run.executed_again,
        most_store_bytes=_window(fleet) * costs.store_bytes_per_open_job + fleet.images / 8,
        ledger_bytes=fleet.images * costs.ledger_bytes_per_job,
        connections=fleet.workers * costs.connections_per_worker,
    )


def _window(fleet: Fleet) -> float:
    return float(max(SMALLEST_WINDOW, WINDOW_PER_SLOT * fleet.slots * fleet.workers))
