"""Runs for an hour under random faults: `python -m tests.faults.soak --minutes 60 --seed 1`.

Runs follow each other at a modest load, and every process is sampled each ten seconds. At the end it reports
whether anything was lost, doubled or grew. Leaves soak.csv and soak.svg in --out.
"""

import csv
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import typer

from tests.faults.figure import Line, write_svg
from tests.faults.proxy import Proxy
from tests.faults.site import Site, Worker, process_figures

SAMPLE_S: Final = 10.0
SLOTS: Final = 4
JOBS: Final = 1500
"""Of one run; several minutes of work."""
POISON: Final = 0.001
BAD: Final = 0.01
PAUSE_S: Final = (3.0, 12.0)
"""Between the end of a fault and the next one."""
MOST_GROWTH: Final = {"rss_kib": 0.10, "descriptors": 0.10, "threads": 0.10, "redis_kib": 0.15, "keys": 0.25}
"""From the median of the first third of the samples to that of the last, as a share."""
WAITS_S: Final = 60
"""The visibility timeout. A worker that is killed leaves its messages for so long."""


@dataclass
class Sample:
    """One moment: what the surviving worker takes, and what the server holds."""

    minute: float
    visible: int
    rss_kib: int
    descriptors: int
    threads: int
    redis_kib: float
    keys: int


@dataclass
class Tally:
    """What came of the runs so far."""

    runs: int = 0
    jobs: int = 0
    lost: int = 0
    twice: int = 0
    foreign: int = 0
    executed_again: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)


class Soak:
    """One server, two workers and one run after another, until the time is up.

    The first worker survives all faults and is sampled; the other one is killed and ended.
    """

    def __init__(self, folder: Path, seed: int, minutes: float) -> None:
        self._chance = random.Random(seed)
        self._until = time.monotonic() + 60 * minutes
        self._begun = time.monotonic()
        self._folder = folder
        self._seed = seed
        self.tally = Tally()
        self.samples: list[Sample] = []
        self._site = Site(
            folder / "site", "soak", bound_s=60 * minutes + 1800, visibility_s=WAITS_S, seed=seed
        )
        self._proxy: Proxy | None = None
        self._visible_before = 0

    def run(self) -> None:
        with self._site as site:
            self._proxy = Proxy(site.server.port)
            site.worker_url = self._proxy.url
            self._survivor = self._start_worker(STUB_IMMUNE="1")
            self._mortal = self._start_worker()
            faults = self._faults()
            try:
                while time.monotonic() < self._until:
                    self._one_run(faults)
            finally:
                self._proxy.stop()

    # One run

    def _one_run(self, faults: list[Callable[[], None]]) -> None:
        site = self._site
        site.begin_run(f"run-{self.tally.runs}", self._wishes())
        site.produce()
        next_fault = time.monotonic() + self._chance.uniform(*PAUSE_S)
        next_sample = time.monotonic()
        while not site.is_over():
            now = time.monotonic()
            if now >= next_sample:
                self._sample()
                next_sample = now + SAMPLE_S
            if next_fault <= now < self._until:
                fault = self._chance.choice(faults)
                self.tally.faults[fault.__name__.strip("_").replace("_", " ")] += 1
                fault()
                next_fault = time.monotonic() + self._chance.uniform(*PAUSE_S)
            self._look_after()
            time.sleep(0.1)
        result = site.result()
        self._visible_before += site.visible()
        site.end_run()
        tally = self.tally
        tally.runs += 1
        tally.jobs += result.jobs
        tally.lost += result.lost
        tally.twice += result.twice
        tally.foreign += result.foreign
        tally.executed_again += result.executed_again or 0
        tally.failed.update(result.failed)
        print(
            f"{self._minute():6.1f} min: {tally.runs} runs, {tally.jobs} jobs, lost {tally.lost}, "
            f"twice {tally.twice}, executed again {tally.executed_again}",
            flush=True,
        )

    def _wishes(self) -> list[str]:
        wishes = []
        for _ in range(JOBS):
            drawn = self._chance.random()
            if drawn < POISON:
                wishes.append(self._chance.choice(("segv", "kill", "exit")))
            elif drawn < POISON + BAD:
                wishes.append("raise RuntimeError")
            else:
                wishes.append(f"sleep {self._chance.uniform(0.1, 0.5):.2f}")
        return wishes

    def _look_after(self) -> None:
        """Start again what has ended, as a supervisor and a patient user do."""
        assert self._survivor.is_alive(), self._site.logs()
        if not self._mortal.is_alive():
            self._mortal = self._start_worker()
        if not self._site.is_producing():
            self._site.produce()

    def _start_worker(self, **changes: str) -> Worker:
        return self._site.start_worker(slots=SLOTS, **changes)

    # Faults

    def _faults(self) -> list[Callable[[], None]]:
        return [
            self._worker_killed,
            self._worker_ended,
            self._worker_paused,
            self._server_killed,
            self._server_frozen,
            self._server_full,
            self._network_cut,
            self._connections_reset,
            self._producer_killed,
        ]

    def _worker_killed(self) -> None:
        self._mortal.kill()

    def _worker_ended(self) -> None:
        self._mortal.terminate()

    def _worker_paused(self) -> None:
        worker = self._chance.choice((self._survivor, self._mortal))
        worker.pause()
        time.sleep(self._chance.uniform(1, 30))
        worker.resume()

    def _server_killed(self) -> None:
        self._site.server.kill()
        time.sleep(self._chance.uniform(0, 10))
        self._site.server.start()

    def _server_frozen(self) -> None:
        self._site.server.freeze()
        time.sleep(self._chance.uniform(1, 10))
        self._site.server.thaw()

    def _server_full(self) -> None:
        self._site.server.fill()
        time.sleep(self._chance.uniform(1, 10))
        self._site.server.make_room()

    def _network_cut(self) -> None:
        assert self._proxy is not None, "it runs"
        self._proxy.cut()
        time.sleep(self._chance.uniform(0, 10))
        self._proxy.mend()

    def _connections_reset(self) -> None:
        assert self._proxy is not None, "it runs"
        self._proxy.reset()

    def _producer_killed(self) -> None:
        self._site.kill_producers()

    # Samples

    def _minute(self) -> float:
        return (time.monotonic() - self._begun) / 60

    def _sample(self) -> None:
        figures = process_figures(self._survivor.pid)
        assert figures is not None, "it survives"
        server = self._site.server.connection
        self.samples.append(
            Sample(
                round(self._minute(), 2),
                self._visible_before + self._site.visible(),
                *figures,
                redis_kib=server.info("memory")["used_memory"] / 1024,
                keys=server.dbsize(),
            )
        )


def growth(samples: list[Sample], name: str) -> float:
    """Of the median, from the first third of the samples to the last, as a share."""
    third = len(samples) // 3
    first = statistics.median(getattr(one, name) for one in samples[:third])
    last = statistics.median(getattr(one, name) for one in samples[-third:])
    return float(last / first - 1)


def write_csv(samples: list[Sample], path: Path) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, vars(samples[0]))
        table.writeheader()
        table.writerows(map(vars, samples))


def draw(samples: list[Sample], path: Path) -> None:
    """Each figure as a share of its median, one above the other."""
    names = {
        "rss_kib": "resident memory of a worker",
        "descriptors": "open descriptors of a worker",
        "threads": "threads of a worker",
        "redis_kib": "memory of the server",
        "keys": "keys in the server",
    }
    lines = []
    for name, title in names.items():
        values = [float(getattr(one, name)) for one in samples]
        shown = [value / 1024 for value in values] if name.endswith("_kib") else values
        unit = "MiB" if name.endswith("_kib") else ""
        lines.append(Line(title, unit, [one.minute for one in samples], shown))
    write_svg(lines, path)


def main(
    minutes: Annotated[
        float, typer.Option(help="How long faults go on; the last run is then let finish.")
    ] = 60,
    seed: Annotated[int, typer.Option(help="Of the faults and the jobs.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for soak.csv and soak.svg.")] = Path("bench-out"),
) -> None:
    """Exit code 1 if a job was lost or doubled, or a figure grew."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="captionmill-soak-") as folder:
        soak = Soak(Path(folder), seed, minutes)
        soak.run()
    tally = soak.tally
    print(
        f"{minutes:g} minutes, seed {seed}: {tally.runs} runs, {tally.jobs} jobs, lost {tally.lost}, "
        f"visible twice {tally.twice}, foreign {tally.foreign}, executed again {tally.executed_again}"
    )
    print("failed: " + ", ".join(f"{code} {count}" for code, count in sorted(tally.failed.items())))
    print("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(tally.faults.items())))
    well = (tally.lost, tally.twice, tally.foreign) == (0, 0, 0)
    if len(soak.samples) >= 3:
        write_csv(soak.samples, out / "soak.csv")
        draw(soak.samples, out / "soak.svg")
        for name, most in MOST_GROWTH.items():
            grown = growth(soak.samples, name)
            print(f"{name}: {grown:+.1%} from the first third to the last, at most {most:+.0%}")
            well = well and grown <= most
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    typer.run(main)
