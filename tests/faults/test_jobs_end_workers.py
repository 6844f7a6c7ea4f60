"""Jobs that kill, freeze, fill and break whatever answers them, among jobs that do not."""

import random
import time

import kombu
import pytest

from contract.broker import JOB_QUEUE, SUSPECT_QUEUE, TASK_NAME
from contract.store import DEAD_LETTERS_KEY
from tests.faults.conftest import MakeSite, assert_kept
from tests.faults.result import Result
from tests.faults.site import REAL, Site, Worker
from tests.support.fakes import RAISED

SLOTS = 4
RECOVERABLE = [name for name in RAISED if name != "EngineStoppedError"]
GIB = 2**30


class KeptAlive:
    """Workers that are started again whenever they end, as an operator's supervisor does."""

    def __init__(self, site: Site, count: int) -> None:
        self._site = site
        self._workers: list[Worker] = site.start_workers(count, slots=SLOTS)
        self.deaths = 0

    def look(self) -> None:
        for number, worker in enumerate(self._workers):
            if not worker.is_alive():
                self.deaths += 1
                self._workers[number] = self._site.start_worker(slots=SLOTS)

    def until_the_end(self, note: str = "") -> Result:
        producer = self._site.produce()
        while producer.poll() is None:
            self.look()
            time.sleep(0.05)
            self._site.check_bound()
        return self._site.finish(f"{self.deaths} workers died{note}")


@pytest.mark.parametrize(
    "way", ["segv", *(pytest.param(way, marks=pytest.mark.faults) for way in ("kill", "exit"))]
)
def test_a_job_kills_every_worker_that_answers_it(make_site: MakeSite, way: str) -> None:
    site = make_site(f"one of 60 jobs ends its worker ({way})", visibility_s=3)
    wishes = ["sleep 0.01"] * 60
    wishes[17] = way
    site.plan(wishes)
    result = KeptAlive(site, 2).until_the_end()
    assert_kept(result)
    assert result.failed == {"crashed_worker": 1}
    assert site.begun().count("17") == 3


@pytest.mark.faults
def test_a_job_kills_its_worker_once(make_site: MakeSite) -> None:
    """It is a suspect then, and innocent."""
    site = make_site("a job ends its worker once, and not again", visibility_s=3)
    wishes = ["sleep 0.01"] * 40
    wishes[7] = "kill x1"
    site.plan(wishes)
    result = KeptAlive(site, 2).until_the_end()
    assert_kept(result)
    assert result.failed == {}


@pytest.mark.faults
def test_one_job_in_a_hundred_kills_its_worker(make_site: MakeSite) -> None:
    site = make_site("1 % of 1000 jobs end their workers", visibility_s=10, bound_s=400, seed=5)
    chance = random.Random(5)
    wishes = ["sleep 0.02"] * 1000
    for number in chance.sample(range(1000), 10):
        wishes[number] = chance.choice(["segv", "kill", "exit", "abort"])
    site.plan(wishes)
    result = KeptAlive(site, 2).until_the_end()
    assert_kept(result)
    assert result.failed == {"crashed_worker": 10}


@pytest.mark.faults
def test_every_job_kills_its_worker(make_site: MakeSite) -> None:
    """As a broken model folder does: the run stops before it has burnt its jobs."""
    site = make_site("every job ends its worker", visibility_s=5, bound_s=200)
    site.plan(["kill x60"] * 200)
    workers = KeptAlive(site, 2)
    producer = site.produce()
    while producer.poll() is None:
        workers.look()
        time.sleep(0.05)
        site.check_bound()
    assert producer.returncode == 2
    assert "the cause is the workers, not the jobs" in (site.folder / "producer.log").read_text()
    result = site.result(f"the run stops by itself after {workers.deaths} deaths; the rest is as new")
    assert (result.twice, result.foreign) == (0, 0)
    assert 5 <= result.failed["crashed_worker"] < 60
    result.note += f", {result.lost} jobs"
    result.lost = 0
    result.keep()


@pytest.mark.parametrize("verb", ["raise", "fail-prompt"])
def test_whatever_is_raised_costs_no_slot(make_site: MakeSite, verb: str) -> None:
    where = {"raise": "the engine", "fail-prompt": "a task"}[verb]
    site = make_site(f"every BaseException in {where}, ten times the slots")
    broken = [f"{verb} {name}" for name in RECOVERABLE * (10 * SLOTS // len(RECOVERABLE))]
    site.plan([*broken, *["sleep 0.01"] * 40])
    site.start_workers(1, slots=SLOTS)
    site.produce()
    result = site.finish()
    assert_kept(result)
    assert result.failed == {"internal_error": len(broken)}
    assert result.executed_again == 0


@pytest.mark.faults
def test_a_job_takes_all_memory(make_site: MakeSite) -> None:
    site = make_site("jobs take more memory than there is")
    wishes = ["sleep 0.01"] * 40
    wishes[3] = wishes[30] = "hog 3000"
    site.plan(wishes)
    [worker] = site.start_workers(1, STUB_MEMORY_BYTES=str(2 * GIB))
    site.produce()
    result = site.finish("each ends in internal_error with MemoryError; the worker lives on")
    assert_kept(result)
    assert result.failed == {"internal_error": 2}
    assert worker.is_alive()


@pytest.mark.faults
def test_a_job_is_stuck(make_site: MakeSite) -> None:
    """Others go on beside it; a worker that is ended gives it back when its drain is over."""
    site = make_site("a job is stuck, and its worker is ended")
    wishes = ["sleep 0.01"] * 40
    wishes[5] = "hang x1"
    site.plan(wishes)
    [worker] = site.start_workers(1, slots=SLOTS, CAPTIONMILL_DRAIN_S="1")
    site.produce()
    site.wait_until(lambda: site.visible() == 39)
    worker.terminate()
    assert worker.process.wait() == 0
    site.start_workers(1)
    site.fault_over()
    result = site.finish()
    assert_kept(result)
    assert result.executed_again == 1


def test_the_engine_dies(make_site: MakeSite) -> None:
    site = make_site("an engine can generate no more", visibility_s=3)
    wishes = ["sleep 0.01"] * 60
    wishes[20] = "raise EngineStoppedError x1"
    site.plan(wishes)
    dying = site.start_workers(2)
    site.produce()
    site.wait_until(lambda: not all(worker.is_alive() for worker in dying))
    result = site.finish("its process ends and gives its jobs back; another one goes on")
    assert_kept(result)
    assert result.failed == {}
    [dead] = [worker for worker in dying if not worker.is_alive()]
    assert dead.process.returncode == 0


@pytest.mark.faults
def test_a_model_fails_to_load(make_site: MakeSite) -> None:
    site = make_site("a worker's model fails to load")
    site.plan(["sleep 0.01"] * 20)
    site.produce()
    site.wait_until(lambda: site.server.connection.llen(JOB_QUEUE) > 0)
    broken = site.start_worker(app=REAL, CAPTIONMILL_MODEL_FOLDER=str(site.folder))
    assert broken.process.wait() == 2
    assert site.taken() == 0
    site.start_workers(1)
    site.fault_over()
    result = site.finish("it ends before it has touched a job")
    assert_kept(result)
    assert result.executed_again == 0


def test_garbage_in_the_queues(make_site: MakeSite) -> None:
    site = make_site("garbage in the broker's queues")
    site.plan(["sleep 0.01"] * 40)
    site.start_workers(1, slots=SLOTS)
    garbage = [[], [1, 2], [None], ["x"], [{"run": "r"}], [{"index": 3}], [{"run": "../..", "index": -1}]]
    with kombu.Connection(site.server.url) as broker, broker.Producer() as producer:
        for queue in (JOB_QUEUE, SUSPECT_QUEUE):
            for number, arguments in enumerate(garbage):
                headers = {"task": TASK_NAME, "id": f"garbage-{number}", "lang": "py"}
                producer.publish([arguments, {}, {}], routing_key=queue, serializer="json", headers=headers)
    site.produce()
    result = site.finish("each piece ends in the dead letters")
    assert_kept(result)
    assert site.server.connection.llen(DEAD_LETTERS_KEY) >= 2 * len(garbage)


def test_jobs_of_another_version(make_site: MakeSite) -> None:
    """A producer that is newer than the workers."""
    site = make_site("jobs of an unknown version")
    site.plan(["sleep 0.01"] * 20)
    producer = site.produce("--keep-going")
    store = site.server.connection
    site.wait_until(lambda: store.llen(JOB_QUEUE) == 20)
    site.stop_process(producer)
    site.make_newer(JOB_QUEUE)
    site.continue_process(producer)
    site.start_workers(1)
    result = site.finish("each ends in unsupported_version")
    assert_kept(result)
    assert result.failed == {"unsupported_version": 20}
    assert result.executed_again == 0
