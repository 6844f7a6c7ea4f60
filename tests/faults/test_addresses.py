"""No connection goes to an address that is not public, whether by URL, name or redirect.

Connections are counted twice: by the interpreter's audit events, whatever the address, and by a listener that
takes every connection to this machine on its port.
"""

import ipaddress
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from contract.failure import Failure, Refusal
from contract.job import ImageUrl, Job
from tests.faults.addresses import LITERALS, NAMES, SCHEMES, SPELLINGS, answers, resolve
from tests.support.web_server import BODY, WebServer, web_server
from worker.delivery.results import ResultStore
from worker.images.download import Downloads, Resolver, UrlRules
from worker.images.fetch import ImageFetch

SERVER = "127.0.0.77"
"""The one address that may be connected to: of a server that a stranger runs."""
RULES = UrlRules(private_networks=(f"{SERVER}/32",))
MAX_BYTES = 10_000

_connections: list[Any] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        _connections.append(arguments[1])


sys.addaudithook(_audit)


@pytest.fixture
def connections() -> list[Any]:
    """Addresses that this process has tried to connect to since the test began."""
    _connections.clear()
    return _connections


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with web_server(SERVER) as running:
        yield running


class Listener:
    """Takes connections to every address of this machine, of both families, on one port."""

    def __init__(self) -> None:
        self._socket = socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100
        )
        self.port: int = self._socket.getsockname()[1]
        self.accepted: list[Any] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            connection, peer = self._socket.accept()
            with connection:
                if connection.recv(3) == b"end":
                    return
                self.accepted.append(peer)

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"end")
        self._thread.join()
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@contextmanager
def downloads(resolver: Resolver = resolve, **options: Any) -> Iterator[Downloads]:
    made = Downloads(RULES, MAX_BYTES, resolver, **{"pauses_s": (), **options})
    yield made
    made.close()


def refused(download: Downloads, url: str) -> Failure | None:
    try:
        download(url)
    except Refusal as refusal:
        return refusal.failure
    return None


def fits(host: str, failure: Failure | None) -> bool:
    """Whether it is refused; what is neither a number nor a name that is known may as well not be found."""
    if failure is None:
        return False
    unknown = host in SPELLINGS and "cannot be reached" in failure.message
    return failure.code == "url_not_allowed" or unknown


def hosts() -> list[str]:
    return [*LITERALS, *SPELLINGS, *NAMES]


def test_there_are_enough_of_them() -> None:
    assert len(set(hosts())) == len(hosts())
    assert len(hosts()) >= 120


def test_a_listener_and_the_audit_see_connections(
    listener: Listener, connections: list[Any], server: WebServer
) -> None:
    """Else the tests below would prove nothing."""
    for address in ("127.0.0.1", "::1"):
        socket.create_connection((address, listener.port)).close()
    while len(listener.accepted) < 2:
        pass
    assert [address[0] for address in connections] == ["127.0.0.1", "::1"]
    with downloads() as download:
        assert download(server.url("/image")) == BODY
    assert connections[-1] == (SERVER, server.port)


def test_by_url(listener: Listener, connections: list[Any]) -> None:
    with downloads() as download:
        found = {
            host: refused(download, f"{scheme}://{host}:{listener.port}/a.png?secret")
            for host in hosts()
            for scheme in ("http", "https")
        }
    assert {host: f for host, f in found.items() if not fits(host, f)} == {}
    assert all("secret" not in f.message for f in found.values() if f)
    assert (connections, listener.accepted) == ([], [])


def test_by_redirect(listener: Listener, connections: list[Any], server: WebServer) -> None:
    """Also such as leave out what they share with the URL before."""
    with downloads() as download:
        for host in hosts():
            for target in (f"http://{host}:{listener.port}/secret", f"//{host}:{listener.port}/secret"):
                failure = refused(download, server.url(f"/leave?{target}"))
                assert fits(host, failure), (target, failure)
                assert failure is not None
                assert "secret" not in failure.message
    assert {address[0] for address in connections} == {SERVER}
    assert {address[1] for address in connections} == {server.port}
    assert listener.accepted == []


def test_by_name(listener: Listener, connections: list[Any]) -> None:
    """A name that leads to each address, alone and behind a public one."""
    told: list[Any] = []
    with downloads(lambda *_: told) as download:
        for literal in LITERALS:
            address = str(ipaddress.ip_address(literal.strip("[]")))
            for addresses in ((address,), ("93.184.215.14", address), (address, "93.184.215.14")):
                told[:] = answers(addresses, listener.port)
                failure = refused(download, f"http://images.example:{listener.port}/a.png")
                assert failure is not None
                assert (failure.code.value, address in failure.message) == ("url_not_allowed", False), (
                    addresses
                )
    assert (connections, listener.accepted) == ([], [])


class Rebinding:
    """Tells the good address so many times, and then another one; counts how often it was asked."""

    def __init__(self, good: int, then: str) -> None:
        self._good = good
        self._then = then
        self.asked = 0

    def __call__(self, _host: str, port: int, *_: Any) -> list[Any]:
        self.asked += 1
        return answers((SERVER if self.asked <= self._good else self._then,), port)


@pytest.mark.parametrize("then", ["127.0.0.1", "169.254.169.254", "::1", "10.0.0.1", "::ffff:127.0.0.1"])
def test_by_a_name_that_changes_its_mind(
    listener: Listener, connections: list[Any], server: WebServer, then: str
) -> None:
    """Between looking and connecting, between two attempts, and between a URL and its redirect."""
    for path, options, code, asked in (
        ("/image", {}, None, 1),
        ("/closing", {"pauses_s": (0.0, 0.0)}, "url_not_allowed", 2),
        (f"/leave?http://rebound.example:{listener.port}/", {}, "url_not_allowed", 2),
        (f"/leave?//rebound.example:{listener.port}/", {}, "url_not_allowed", 2),
    ):
        resolver = Rebinding(1, then)
        with downloads(resolver, **options) as download:
            failure = refused(download, server.url(path, host="rebound.example"))
        assert (None if failure is None else failure.code.value, resolver.asked) == (code, asked), path
    assert set(connections) == {(SERVER, server.port)}
    assert listener.accepted == []


def test_by_other_schemes(connections: list[Any], server: WebServer) -> None:
    """From a job as from a redirect."""
    store = ResultStore("redis://127.0.0.1:1/0", retries=0)
    fetch = ImageFetch((), MAX_BYTES, store, RULES)
    with downloads() as download:
        for url in SCHEMES:
            if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://.", url):
                question = {"id": "q", "messages": "What?"}
                job = {"run": "r", "index": 1, "image": ImageUrl(url=url), "questions": [question]}
                with pytest.raises(Refusal) as refusal:
                    fetch(Job.model_validate(job))
                assert refusal.value.failure.code == "url_not_allowed", url
            else:
                with pytest.raises(ValidationError):
                    ImageUrl(url=url)
    assert connections == []
    for url in SCHEMES:
        # Relative to the server these are the server's own.
        if url.partition(":")[0] in ("http", "https"):
            continue
        with downloads() as download:
            failure = refused(download, server.url(f"/leave?{url}"))
        assert failure is not None
        assert failure.code == "url_not_allowed", url
    assert {address[0] for address in connections} == {SERVER}
    fetch.close()
    store.close()
