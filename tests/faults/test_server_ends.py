"""A server that is killed, frozen, emptied, torn and full, and is there again after a while."""

import time

import pytest

from tests.faults.conftest import MakeSite, assert_kept
from tests.faults.site import Site, Worker, process_figures

VISIBILITY_S = 2
RATE_OVER_S = 3.0
"""Throughput is told over so long."""
AS_BEFORE = 0.95
MORE_DESCRIPTORS = 20
"""A worker opens these for good under load."""


def busy(site: Site, jobs: int = 400) -> None:
    """Two workers well within a run."""
    site.plan(["sleep 0.03"] * jobs)
    site.start_workers(2)
    site.produce()
    site.wait_until(lambda: site.visible() > 20)


def test_the_server_is_killed_and_back(make_site: MakeSite) -> None:
    site = make_site("the server is killed and back at once", visibility_s=VISIBILITY_S)
    busy(site)
    site.server.kill()
    site.server.start()
    site.fault_over()
    assert_kept(site.finish())


@pytest.mark.faults
def test_the_server_comes_back_empty(make_site: MakeSite) -> None:
    site = make_site("the server is back empty")
    busy(site)
    site.server.kill()
    site.server.forget_everything()
    site.server.start()
    site.fault_over()
    assert_kept(site.finish())


@pytest.mark.faults
def test_the_end_of_the_servers_log_is_torn(make_site: MakeSite) -> None:
    site = make_site("the end of the server's log is torn off", visibility_s=VISIBILITY_S)
    busy(site)
    site.server.kill()
    site.server.tear_log(lost_bytes=20_001)
    site.server.start()
    site.fault_over()
    assert_kept(site.finish())


def test_the_server_freezes(make_site: MakeSite) -> None:
    site = make_site("the server freezes for 2 s", visibility_s=5)
    busy(site)
    site.server.freeze()
    site.sleep(2)
    site.server.thaw()
    site.fault_over()
    assert_kept(site.finish())


@pytest.mark.faults
def test_the_server_is_full(make_site: MakeSite) -> None:
    site = make_site("the server's memory is full for 2 s", visibility_s=VISIBILITY_S)
    busy(site)
    site.server.fill()
    site.sleep(2)
    site.server.make_room()
    site.fault_over()
    assert_kept(site.finish())


def test_every_client_is_thrown_out(make_site: MakeSite) -> None:
    site = make_site("the server ends every connection, five times", visibility_s=VISIBILITY_S)
    busy(site)
    for _ in range(5):
        site.server.connection.client_kill_filter(_type="normal", skipme=True)
        site.sleep(0.2)
    site.fault_over()
    assert_kept(site.finish())


@pytest.mark.faults
@pytest.mark.parametrize("outage_s", [3, 15, 60])
def test_an_outage(make_site: MakeSite, outage_s: int) -> None:
    """Jobs of half a second in the slots of three workers: they limit throughput, not the machine."""
    site = make_site(f"the server is away for {outage_s} s", visibility_s=30, bound_s=300)
    site.plan(["sleep 0.5"] * 3000)
    site.start_workers(3, slots=8, STUB_ROWS="8")
    site.produce(window=256)
    site.wait_until(lambda: site.visible() > 50)
    before = rate(site, seconds=10)
    site.server.kill()
    site.sleep(outage_s)
    site.server.start()
    back = time.monotonic()
    recovered = None
    while recovered is None:
        begin = time.monotonic()
        assert begin - back < 60, "throughput stays below what it was"
        if rate(site, seconds=RATE_OVER_S) >= AS_BEFORE * before:
            recovered = begin - back
    site.note_recovery(recovered)
    result = site.finish(f"throughput {before:.0f} jobs/s, and >= 95 % of it again after that")
    assert_kept(result)
    if outage_s == 3:
        assert recovered <= 15


def rate(site: Site, seconds: float) -> float:
    """Records on disk per second."""
    begin, visible = time.monotonic(), site.visible()
    time.sleep(seconds)
    return (site.visible() - visible) / (time.monotonic() - begin)


@pytest.mark.faults
def test_a_long_freeze(make_site: MakeSite) -> None:
    site = make_site("the server freezes for 40 s, beyond every socket timeout", visibility_s=60, bound_s=300)
    busy(site, 600)
    site.server.freeze()
    site.sleep(40)
    site.server.thaw()
    site.fault_over()
    assert_kept(site.finish())


@pytest.mark.faults
def test_a_minute_without_memory(make_site: MakeSite) -> None:
    site = make_site("the server's memory is full for 60 s", visibility_s=10, bound_s=300)
    busy(site, 600)
    before = max(descriptors(worker) for worker in site.workers)
    site.server.fill()
    site.sleep(60)
    site.server.make_room()
    site.fault_over()
    # Hundreds of tries to connect fail meanwhile, and each opens two sockets.
    site.wait_until(lambda: max(descriptors(worker) for worker in site.workers) < before + MORE_DESCRIPTORS)
    assert_kept(site.finish())


@pytest.mark.faults
def test_a_million_jobs_and_slow_workers(make_site: MakeSite) -> None:
    """The window bounds what the server holds, however long the run is."""
    site = make_site("10^6 jobs against slow workers", bound_s=600)
    site.plan("sleep 0.5" for _ in range(1_000_000))
    site.start_workers(1)
    site.produce(window=1000)
    site.wait_until(lambda: site.visible() > 50)
    used = [memory(site)]
    for _ in range(20):
        site.sleep(3)
        used.append(memory(site))
    result = site.result(f"server memory {used[0] / 1e6:.1f} MB, a minute later {used[-1] / 1e6:.1f} MB")
    result.lost = 0
    result.note += f"; {result.jobs - site.visible()} jobs were never due"
    result.keep()
    assert (result.twice, result.foreign) == (0, 0)
    assert max(used) < 1.2 * used[0] + 2**20


def descriptors(worker: Worker) -> int:
    figures = process_figures(worker.pid)
    assert figures is not None, "it lives"
    return figures[1]


def memory(site: Site) -> int:
    used: int = site.server.connection.info("memory")["used_memory"]
    return used
