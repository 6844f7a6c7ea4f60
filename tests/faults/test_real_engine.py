"""The worst of the faults with the real worker: the demo model, its pictures, OpenVINO."""

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import MakeSite, assert_kept
from tests.faults.proxy import Proxy
from tests.faults.site import REAL, Site, Worker
from tests.support.processes import ROOT

PICTURES = sorted((ROOT / "demo" / "images").glob("*.*"))
ENVIRONMENT = {"CAPTIONMILL_KV_CACHE_BYTES": str(64 * 2**20), "CAPTIONMILL_DRAIN_S": "30"}
SLOTS = 4


def pictures(site: Site, count: int) -> list[Path]:
    """Files of their own bytes: equal ones would be asked about once."""
    folder = site.folder / "pictures"
    folder.mkdir()
    made = []
    for number in range(count):
        picture = PICTURES[number % len(PICTURES)]
        path = folder / f"{number}{picture.suffix}"
        # Decoders ignore what follows the image.
        path.write_bytes(picture.read_bytes() + number.to_bytes(4, "big"))
        made.append(path)
    return made


def start(site: Site, count: int = 1) -> list[Worker]:
    return site.start_workers(count, app=REAL, slots=SLOTS, **ENVIRONMENT)


def busy(site: Site, count: int = 200, workers: int = 2) -> list[Worker]:
    site.plan_images(pictures(site, count))
    started = start(site, workers)
    site.produce(window=32)
    site.wait_until(lambda: site.visible() > 5)
    return started


@pytest.mark.faults
def test_a_real_worker_is_killed(make_site: MakeSite) -> None:
    site = make_site("real engine: a worker is killed", visibility_s=5)
    first, *_ = busy(site, count=60)
    first.kill()
    site.fault_over()
    assert_kept(site.finish())


@pytest.mark.faults
def test_real_workers_are_killed_again_and_again(make_site: MakeSite) -> None:
    site = make_site("real engine: SIGKILL storm", visibility_s=10, bound_s=300, seed=11)
    workers = busy(site, count=600)
    chance = random.Random(site.seed)
    for _ in range(5):
        time.sleep(chance.uniform(1, 3))
        victim = chance.randrange(len(workers))
        workers[victim].kill()
        workers[victim] = start(site)[0]
    site.fault_over()
    result = site.finish("5 kills")
    assert_kept(result)
    assert "crashed_worker" not in result.failed


@pytest.mark.faults
def test_real_workers_are_ended_one_after_the_other(make_site: MakeSite) -> None:
    site = make_site("real engine: rolling SIGTERM", bound_s=200)
    for worker in busy(site, count=300):
        worker.terminate()
        assert worker.process.wait() == 0, worker.log.read_text()
        start(site)
    result = site.finish()
    assert_kept(result)
    assert result.failed == {}


@pytest.mark.faults
def test_the_server_ends_under_real_workers(make_site: MakeSite) -> None:
    site = make_site("real engine: the server is killed and back after 3 s", visibility_s=10, bound_s=200)
    busy(site)
    site.server.kill()
    site.sleep(3)
    site.server.start()
    site.fault_over()
    assert_kept(site.finish())


@pytest.fixture
def proxies() -> Iterator[list[Proxy]]:
    opened: list[Proxy] = []
    yield opened
    for proxy in opened:
        proxy.stop()


@pytest.mark.faults
def test_connections_of_real_workers_are_reset(make_site: MakeSite, proxies: list[Proxy]) -> None:
    site = make_site("real engine: connections are reset, ten times", visibility_s=10, bound_s=200)
    proxy = Proxy(site.server.port)
    proxies.append(proxy)
    site.worker_url = proxy.url
    busy(site)
    for _ in range(10):
        proxy.reset()
        site.sleep(0.2)
    site.fault_over()
    assert_kept(site.finish())


@pytest.mark.faults
def test_everything_real_is_killed_at_once(make_site: MakeSite) -> None:
    site = make_site("real engine: everything is killed at once", visibility_s=10, bound_s=200)
    workers = busy(site)
    site.server.kill()
    site.kill_producers()
    for worker in workers:
        worker.kill()
    site.server.start()
    start(site)
    site.produce(window=32)
    site.fault_over()
    assert_kept(site.finish())


@pytest.mark.faults
def test_bad_pictures_under_real_workers(make_site: MakeSite) -> None:
    site = make_site("real engine: every third picture is cut, empty, gone or none", bound_s=200)
    files = pictures(site, 90)
    for number, path in enumerate(files[::3]):
        if number % 4 == 0:
            path.write_bytes(path.read_bytes()[:200])
        elif number % 4 == 1:
            path.write_bytes(b"")
        elif number % 4 == 2:
            path.unlink()
        else:
            shutil.copy(__file__, path)
            path.write_text(f"{path.read_text()}# {number}")
    site.plan_images(files)
    start(site)
    site.produce()
    result = site.finish("each ends in a failure of its own code")
    assert_kept(result)
    assert sum(result.failed.values()) == 30
    assert set(result.failed) <= {"image_broken", "image_unreadable", "image_not_found", "not_an_image"}
