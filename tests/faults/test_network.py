"""A network between processes and server that resets, breaks, crawls and swallows."""

from collections.abc import Iterator

import pytest

from tests.faults.conftest import MakeSite, assert_kept
from tests.faults.proxy import Proxy
from tests.faults.site import Site

VISIBILITY_S = 2
Broken = tuple[Site, Proxy]


@pytest.fixture
def proxies() -> Iterator[list[Proxy]]:
    opened: list[Proxy] = []
    yield opened
    for proxy in opened:
        proxy.stop()


def through(site: Site, proxies: list[Proxy], jobs: int = 400) -> Proxy:
    """Two workers and a producer behind one proxy, well within a run."""
    proxy = Proxy(site.server.port)
    proxies.append(proxy)
    site.worker_url = site.producer_url = proxy.url
    site.plan(["sleep 0.03"] * jobs)
    site.start_workers(2)
    site.produce()
    site.wait_until(lambda: site.visible() > 20)
    return proxy


def test_connections_are_reset(make_site: MakeSite, proxies: list[Proxy]) -> None:
    site = make_site("connections are reset, ten times", visibility_s=VISIBILITY_S)
    proxy = through(site, proxies)
    for _ in range(10):
        proxy.reset()
        site.sleep(0.1)
    site.fault_over()
    assert_kept(site.finish())


@pytest.mark.faults
def test_the_network_is_away(make_site: MakeSite, proxies: list[Proxy]) -> None:
    site = make_site("the network is away for 2 s", visibility_s=4)
    proxy = through(site, proxies)
    proxy.cut()
    site.sleep(2)
    proxy.mend()
    site.fault_over()
    assert_kept(site.finish())


def test_the_network_is_slow(make_site: MakeSite, proxies: list[Proxy]) -> None:
    site = make_site("every piece takes 20 ms each way")
    proxy = through(site, proxies, jobs=60)
    proxy.delay_s = 0.02
    site.fault_over()
    result = site.finish()
    assert_kept(result)
    assert result.executed_again == 0


def test_the_network_is_narrow(make_site: MakeSite, proxies: list[Proxy]) -> None:
    site = make_site("100 kB/s for each connection")
    proxy = through(site, proxies, jobs=60)
    proxy.bytes_per_s = 100_000.0
    site.fault_over()
    result = site.finish()
    assert_kept(result)
    assert result.executed_again == 0


@pytest.mark.faults
def test_a_link_is_half_open(make_site: MakeSite, proxies: list[Proxy]) -> None:
    """Every connection that there is passes nothing any more, and says nothing of it."""
    site = make_site("half-open links", visibility_s=40, bound_s=300)
    proxy = through(site, proxies, jobs=300)
    proxy.swallow()
    site.fault_over()
    assert_kept(site.finish())
