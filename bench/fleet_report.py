"""The measurement `fleet`: simulated fleets, what limits them first, and real processes for comparison."""

import dataclasses
import math
import os
import time
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from bench.fleet import DETECT_S, Fleet, limits, simulate
from bench.fleet_costs import Costs, Site, measure, site
from bench.machine import describe

FLEETS: Final = (10, 100, 300, 1000, 3000, 10_000)
MIB: Final = 2**20
GIB: Final = 2**30
CHECK_STEP_S: Final = 0.1
CHECK_SLOTS: Final = 4
CHECKS: Final = (
    # (workers, rows, seconds of a job, whether a worker dies)
    (1, 1200, 0.1, False),
    (3, 3600, 0.1, False),
    (3, 8000, 0.001, False),
    (3, 3600, 0.1, True),
)
RESTART_S: Final = 5.0
SERVER_CLIENTS: Final = 10_000


def fleets(base: Fleet, costs: Costs) -> Iterator[str]:
    """Lines of a Markdown table, one for each number of workers."""
    names = ("workers", "images/s", "of ideal", "limit", "server", "producer", "deaths", "again", "days")
    yield f"| {' | '.join(names)} | connections |"
    yield "| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for workers in FLEETS:
        fleet = dataclasses.replace(base, workers=workers)
        try:
            found = simulate(fleet, costs, step_s=_step_s(fleet))
        except ValueError:
            use = workers * costs.server_s_per_worker_s
            yield f"| {workers} | 0 | 0 % | server | {use:.0%} | | | | never | |"
            continue
        yield (
            f"| {workers} | {base.images / found.seconds:.0f} | {found.ideal_s / found.seconds:.0%} "
            f"| {found.limit} | {found.server_use:.0%} | {found.producer_use:.0%} | {found.worker_deaths} "
            f"| {found.executed_again} | {found.seconds / 86400:.1f} | {found.connections:.0f} |"
        )


def first_to_break(base: Fleet, costs: Costs) -> Iterator[str]:
    """Lines about the number of workers that each part can carry."""
    for part in ("server", "producer"):
        workers = 1
        while workers < 10**6:
            most = limits(base, costs, workers)
            if most[part] < most["workers"]:
                break
            workers += max(1, workers // 50)
        yield f"{part}: {workers} workers of {base.images_per_worker_s:g} images/s"
    carried = SERVER_CLIENTS / costs.connections_per_worker
    yield f"connections: {carried:.0f} workers with the server's default of {SERVER_CLIENTS} clients"
    found = simulate(dataclasses.replace(base, worker_mtbf_s=math.inf), costs, step_s=_step_s(base))
    yield f"store: {found.most_store_bytes / MIB:.0f} MiB, ledger: {found.ledger_bytes / GIB:.0f} GiB"


def checks(costs: Costs) -> Iterator[dict[str, Any]]:
    """Simulated and real seconds of small runs on this machine."""
    for workers, rows, job_s, dies in CHECKS:
        with site() as here:
            for _ in range(workers):
                here.start_worker(CHECK_SLOTS)
            here.run(here.planned(200, job_s))
            real_s = _real_s(here, rows, job_s, dies=dies)
        yield {
            "workers": workers,
            "rows": rows,
            "job_s": job_s,
            "dies": dies,
            "real_s": real_s,
            "simulated_s": _simulated_s(costs, workers, rows, job_s, dies=dies),
        }


def _real_s(here: Site, rows: int, job_s: float, *, dies: bool) -> float:
    """Seconds of a real run; if `dies`, one worker is killed after a third and restarted RESTART_S later."""
    killed_at: list[float] = []

    def look(round_: Any) -> None:
        if dies and not killed_at and round_.complete > rows // 3:
            here.kill(0)
            killed_at.append(time.monotonic())
        if len(killed_at) == 1 and time.monotonic() - killed_at[0] > RESTART_S:
            killed_at.append(0.0)
            here.start_worker(CHECK_SLOTS)

    return here.run(here.planned(rows, job_s), look)


def _simulated_s(costs: Costs, workers: int, rows: int, job_s: float, *, dies: bool) -> float:
    fleet = Fleet(
        images=rows,
        workers=workers,
        images_per_worker_s=CHECK_SLOTS / (job_s + costs.worker_s_per_job),
        slots=CHECK_SLOTS,
        alone_s=job_s,
        worker_restart_s=RESTART_S,
        shared_cores=_cores(),
    )
    seconds = simulate(fleet, costs, step_s=CHECK_STEP_S).seconds
    if not dies:
        return seconds
    # The death is at a known time: add a part with fewer workers, and the wait for its jobs.
    before = seconds / 3
    fewer = dataclasses.replace(fleet, workers=workers - 1)
    rate = rows / seconds
    fewer_rate = rows / simulate(fewer, costs, step_s=CHECK_STEP_S).seconds
    after = (rows * 2 / 3 - RESTART_S * fewer_rate) / rate
    return before + max(RESTART_S + after, DETECT_S + CHECK_SLOTS * job_s)


def _step_s(fleet: Fleet) -> float:
    """Seconds of a step, for about 20,000 steps."""
    return max(1.0, fleet.images / (fleet.workers * fleet.images_per_worker_s) / 20_000)


def _cores() -> float:
    return float(len(os.sched_getaffinity(0)))


def main(
    images: Annotated[float, typer.Option(min=1, help="Images of the run.")] = 1e8,
    images_per_worker_s: Annotated[
        float, typer.Option(min=1e-6, help="Rate of a worker with all slots busy.")
    ] = 0.5,
    slots: Annotated[int, typer.Option(min=1, help="Jobs at once in a worker.")] = 16,
    alone_s: Annotated[float, typer.Option(min=1e-6, help="Seconds of a job alone in its worker.")] = 8.0,
    worker_mtbf_h: Annotated[
        float, typer.Option(min=1e-6, help="Hours between deaths of one worker.")
    ] = 168.0,
    worker_restart_s: Annotated[float, typer.Option(min=0)] = 120.0,
    server_mtbf_h: Annotated[float, typer.Option(min=1e-6)] = 168.0,
    server_down_s: Annotated[float, typer.Option(min=0)] = 60.0,
    producer_mtbf_h: Annotated[float, typer.Option(min=1e-6)] = 48.0,
    producer_restart_s: Annotated[float, typer.Option(min=0)] = 300.0,
    poison: Annotated[float, typer.Option(min=0, max=1, help="Share of jobs that kill workers.")] = 1e-6,
    check: Annotated[bool, typer.Option("--check", help="Also compare with real processes.")] = False,
) -> None:
    """Simulate many workers on one server and one producer, from costs measured here."""
    costs = measure(slots)
    print(f"{describe(None)}\n\n{costs}\n")
    base = Fleet(
        images=images,
        workers=1000,
        images_per_worker_s=images_per_worker_s,
        slots=slots,
        alone_s=alone_s,
        worker_mtbf_s=3600 * worker_mtbf_h,
        worker_restart_s=worker_restart_s,
        server_mtbf_s=3600 * server_mtbf_h,
        server_down_s=server_down_s,
        producer_mtbf_s=3600 * producer_mtbf_h,
        producer_restart_s=producer_restart_s,
        poison=poison,
    )
    for line in fleets(base, costs):
        print(line, flush=True)
    print()
    for line in first_to_break(base, costs):
        print(line)
    if check:
        print("\n| workers | rows | s of a job | one dies | real s | simulated s |")
        print("| ---: | ---: | ---: | --- | ---: | ---: |")
        for found in checks(costs):
            dies = "yes" if found["dies"] else "no"
            print(
                f"| {found['workers']} | {found['rows']} | {found['job_s']} | {dies} "
                f"| {found['real_s']:.1f} | {found['simulated_s']:.1f} |",
                flush=True,
            )
