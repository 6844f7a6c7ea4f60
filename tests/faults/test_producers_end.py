"""A producer that is killed, paused, doubled and out of disk."""

import random
import time

import pytest

from contract.store import results_key
from tests.faults.conftest import MakeSite, assert_kept

VISIBILITY_S = 2


def kill_at_random(make_site: MakeSite, kills: int, jobs: int, bound_s: float) -> None:
    site = make_site(f"the producer is killed {kills} times", seed=kills, bound_s=bound_s)
    chance = random.Random(kills)
    site.plan(["sleep 0.05"] * jobs)
    site.start_workers(1, slots=2)
    for _ in range(kills):
        producer = site.produce(window=16)
        time.sleep(chance.uniform(0.5, 1.2))
        assert producer.poll() is None, site.logs()
        producer.kill()
        producer.wait()
    site.produce()
    site.fault_over()
    result = site.finish()
    assert_kept(result)
    assert result.executed_again == 0


def test_the_producer_is_killed(make_site: MakeSite) -> None:
    kill_at_random(make_site, kills=3, jobs=160, bound_s=60)


@pytest.mark.faults
def test_the_producer_is_killed_fifty_times(make_site: MakeSite) -> None:
    kill_at_random(make_site, kills=50, jobs=4000, bound_s=400)


def test_two_producers_at_once(make_site: MakeSite) -> None:
    site = make_site("two producers of one run at once")
    site.hold.touch()
    site.plan([*["sleep 0.05"] * 20, *["wait"] * 80])
    site.start_workers(1)
    first = site.produce()
    site.wait_until(lambda: site.visible() > 5)
    second = site.produce()
    assert second.wait() == 2
    site.hold.unlink()
    assert "Another process sends the jobs" in (site.folder / "producer.log").read_text()
    site.forget(second)
    assert first.poll() is None
    result = site.finish("the second one is refused")
    assert_kept(result)
    assert result.executed_again == 0


def test_nobody_collects_for_a_while(make_site: MakeSite) -> None:
    """What waits in the store is bounded by the window."""
    window = 32
    site = make_site("the collector is paused")
    site.hold.touch()
    site.plan([*["sleep 0.01"] * 50, *["wait"] * 150])
    site.start_workers(1)
    producer = site.produce(window=window)
    site.wait_until(lambda: site.visible() == 50 and len(site.begun()) > 50)
    site.stop_process(producer)
    site.hold.unlink()
    site.wait_until(lambda: site.server.connection.llen("captionmill.jobs") == 0 and site.taken() == 0)
    assert 0 < site.server.connection.xlen(results_key(site.run)) <= window
    site.continue_process(producer)
    site.fault_over()
    result = site.finish()
    assert_kept(result)
    assert result.executed_again == 0


def test_the_disk_is_full(make_site: MakeSite) -> None:
    site = make_site("the producer's disk is full")
    site.plan(["sleep 0.01"] * 300)
    site.start_workers(1)
    producer = site.produce(SHORT_DISK_BYTES="400000")
    assert producer.wait() == 2, site.logs()
    assert "ledger.sqlite cannot be written" in (site.folder / "producer.log").read_text()
    assert 0 < site.visible() < 300
    site.produce()
    site.fault_over()
    result = site.finish("the producer ends with a sentence, and goes on when there is room")
    assert_kept(result)
    assert result.executed_again == 0


def test_everything_is_killed_at_once(make_site: MakeSite) -> None:
    site = make_site("everything is killed at once", visibility_s=VISIBILITY_S)
    site.plan(["sleep 0.05"] * 150)
    workers = site.start_workers(2)
    producer = site.produce()
    site.wait_until(lambda: site.visible() > 20)
    site.server.kill()
    producer.kill()
    for worker in workers:
        worker.kill()
    site.server.start()
    site.start_workers(1)
    producer.wait()
    site.produce()
    site.fault_over()
    assert_kept(site.finish())
