"""Workers that are killed, ended, paused and started anew."""

import random
import time

import pytest

from contract.broker import JOB_QUEUE
from contract.store import done_key
from tests.faults.conftest import MakeSite, assert_kept

VISIBILITY_S = 2
STORM_S = 60.0


def test_nothing_goes_wrong(make_site: MakeSite) -> None:
    site = make_site("no fault")
    site.plan(["sleep 0.01"] * 50)
    site.start_workers(1)
    site.produce()
    result = site.finish()
    assert_kept(result)
    assert result.executed_again == 0
    assert len(set(site.begun())) == 50


def test_a_worker_is_killed_with_jobs_in_hand(make_site: MakeSite) -> None:
    site = make_site("a worker is killed", visibility_s=VISIBILITY_S)
    site.plan(["sleep 0.05"] * 100)
    first, _ = site.start_workers(2)
    site.produce()
    site.wait_until(lambda: len(site.begun()) > 20)
    first.kill()
    site.fault_over()
    assert_kept(site.finish())


def test_all_workers_are_killed(make_site: MakeSite) -> None:
    site = make_site("all workers are killed at once", visibility_s=VISIBILITY_S)
    site.plan(["sleep 0.05"] * 100)
    workers = site.start_workers(2)
    site.produce()
    site.wait_until(lambda: len(site.begun()) > 20)
    for worker in workers:
        worker.kill()
    site.start_workers(1)
    site.fault_over()
    assert_kept(site.finish())


def test_workers_are_ended_one_after_the_other(make_site: MakeSite) -> None:
    site = make_site("rolling SIGTERM")
    site.plan(["sleep 0.05"] * 300)
    old = site.start_workers(2)
    site.produce()
    site.wait_until(lambda: len(site.begun()) > 20)
    for worker in old:
        worker.terminate()
        assert worker.process.wait(30) == 0, worker.log.read_text()
        site.start_workers(1)
    result = site.finish()
    assert_kept(result)
    assert result.executed_again == 0


def test_a_worker_is_killed_while_it_drains(make_site: MakeSite) -> None:
    site = make_site("SIGTERM, then SIGKILL while draining", visibility_s=VISIBILITY_S)
    site.hold.touch()
    site.plan(["wait x1"] * 30)
    [worker] = site.start_workers(1, STUB_ROWS="2")
    site.produce()
    site.wait_until(lambda: len(site.begun()) == 2)
    worker.terminate()
    site.wait_until(lambda: "Warm shutdown" in worker.log.read_text())
    worker.kill()
    site.hold.unlink()
    site.start_workers(1)
    site.fault_over()
    assert_kept(site.finish())


def test_a_worker_sleeps_beyond_the_visibility_timeout(make_site: MakeSite) -> None:
    site = make_site("a worker is paused beyond the visibility timeout", visibility_s=2)
    site.hold.touch()
    site.plan(["wait x1"] * 8)
    sleeper, other = site.start_workers(2, slots=4, STUB_ROWS="4")
    producer = site.produce()
    site.wait_until(lambda: len(site.begun()) == 8)
    sleeper.pause()
    site.hold.unlink()
    # Its jobs come to the other one, and it finds them answered when it wakes.
    site.wait_until(lambda: producer.poll() is not None)
    sleeper.resume()
    site.wait_until(lambda: site.taken() == 0)
    result = site.finish("its late records are refused")
    assert_kept(result)
    assert (result.executed_again or 0) > 0
    site.wait_until(lambda: "had its record already" in sleeper.log.read_text())
    assert other.is_alive()


def test_a_message_is_lost_on_its_way_to_a_worker(make_site: MakeSite) -> None:
    """Redis has handed it to a blocked BRPOP, and the worker dies before it has noted so: it is nowhere."""
    site = make_site("lost within BRPOP")
    site.plan(["sleep 0.01"])
    producer = site.produce()
    store = site.server.connection
    site.wait_until(lambda: store.llen(JOB_QUEUE) == 1)
    site.stop_process(producer)
    message = store.rpop(JOB_QUEUE)
    [worker] = site.start_workers(1)
    while True:
        worker.resume()
        time.sleep(0.2)
        worker.pause()
        store.lpush(JOB_QUEUE, message)
        if not store.llen(JOB_QUEUE):
            break
        # It was between two calls just then.
        store.rpop(JOB_QUEUE)
    assert site.taken() == 0
    worker.kill()
    assert store.llen(JOB_QUEUE) == 0
    site.continue_process(producer)
    site.start_workers(1)
    site.fault_over()
    result = site.finish("the message is in no list; the producer's reconciler sends the job again")
    assert_kept(result)


def test_workers_come_before_the_server(make_site: MakeSite) -> None:
    site = make_site("workers start while the server is away")
    site.plan(["sleep 0.01"] * 20)
    site.server.kill()
    worker = site.start_worker()
    site.wait_until(lambda: "Cannot connect" in worker.log.read_text())
    site.server.start()
    site.produce()
    site.fault_over()
    result = site.finish()
    assert_kept(result)
    assert result.executed_again == 0


def test_a_run_is_cancelled_under_way(make_site: MakeSite) -> None:
    """What is in the queue is dropped by workers, and asked again when the run goes on."""
    site = make_site("cancelled under way, and gone on with")
    site.plan(["sleep 0.02"] * 60)
    [worker] = site.start_workers(1, slots=1)
    producer = site.produce()
    site.wait_until(lambda: site.visible() > 5)
    producer.terminate()
    producer.wait()
    site.command("cancel", str(site.out))
    old = site.run
    site.read_run()
    assert site.run != old
    site.produce()
    result = site.finish()
    assert_kept(result)
    assert site.server.connection.bitcount(done_key(old)) == 0
    assert worker.is_alive()


@pytest.mark.faults
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_storm_of_kills(make_site: MakeSite, seed: int) -> None:
    site = make_site(f"SIGKILL storm on workers, seed {seed}", visibility_s=5, bound_s=300, seed=seed)
    chance = random.Random(seed)
    site.plan(["sleep 0.05"] * 3000)
    workers = site.start_workers(3)
    site.produce()
    kills = 0
    until = time.monotonic() + STORM_S
    while time.monotonic() < until:
        time.sleep(chance.uniform(0.2, 2.0))
        victim = chance.randrange(len(workers))
        workers[victim].kill()
        kills += 1
        workers[victim] = site.start_worker()
    site.fault_over()
    assert_kept(site.finish(f"{kills} kills"))
