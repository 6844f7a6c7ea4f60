"""A server that lies, drips, floods and never ends: each download ends with the right code, and soon."""

import resource
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from contract.failure import Refusal
from tests.support.web_server import BODY, ENDLESS, RAW, WebServer, web_server
from worker.images.download import CONNECTIONS, Downloads, UrlRules

TIMEOUT_S = 1.0
MAX_BYTES = 100_000
GREW_MOST_BYTES = 100 * 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with web_server() as running:
        yield running


@pytest.fixture
def download() -> Iterator[Downloads]:
    rules = UrlRules(private_networks=("127.0.0.0/8",), timeout_s=TIMEOUT_S)
    made = Downloads(rules, MAX_BYTES, pauses_s=(0.01, 0.01))
    yield made
    made.close()


def refusal(download: Downloads, url: str) -> tuple[str, str]:
    with pytest.raises(Refusal) as refused:
        download(url)
    message = refused.value.failure.message
    assert "secret" not in message
    return refused.value.failure.code.value, message


@pytest.mark.parametrize("name", RAW)
def test_what_no_server_should_send(server: WebServer, download: Downloads, name: str) -> None:
    code, sentence = refusal(download, server.url(f"/raw/{name}?secret"))
    redirected = name in ("redirect-with-bytes", "redirect-of-50-KB")
    assert code == ("url_not_allowed" if redirected else "download_failed"), sentence


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends(server: WebServer, download: Downloads, name: str) -> None:
    before = peak_bytes()
    code, sentence = refusal(download, server.url(f"/endless/{name}?secret"))
    assert code == ("image_too_large" if name in ("body", "chunks") else "download_failed"), sentence
    assert peak_bytes() - before < GREW_MOST_BYTES


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    ("path", "code", "reason", "asked"),
    [
        ("/reset", "download_failed", "the connection broke", 3),
        ("/cut", "download_failed", "the connection broke", 3),
        ("/closing", "download_failed", "status 503", 3),
        ("/loop", "download_failed", "redirects more than 5 times", 6),
        ("/redirect/6", "download_failed", "redirects more than 5 times", 1),
        ("/bomb", "image_too_large", "more than the 100000 bytes", 1),
        ("/huge", "image_too_large", "more than the 100000 bytes", 1),
        # It has used up its time, and a second attempt would only take as long.
        ("/drip", "download_failed", "not answer in time", 1),
        ("/driphead", "download_failed", "not answer in time", 1),
    ],
)
def test_how_often_it_is_asked(
    server: WebServer, download: Downloads, path: str, code: str, reason: str, asked: int
) -> None:
    server.asked.clear()
    found, sentence = refusal(download, server.url(path))
    assert (found, reason in sentence) == (code, True), sentence
    assert server.asked[path] == asked


def test_too_many_requests_are_spaced_as_the_server_asks(server: WebServer, download: Downloads) -> None:
    server.asked.clear()
    begun = time.monotonic()
    assert download(server.url("/limited/2?1")) == BODY
    assert time.monotonic() - begun >= 2
    assert server.asked["/limited/2"] == 3


def test_a_name_server_that_never_answers_takes_no_longer_than_a_server() -> None:
    """As many lookups as there may be hang; they free their places when they end, and not before."""
    over = threading.Event()

    def hangs(_host: str, port: int, *_: Any) -> list[Any]:
        over.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    rules = UrlRules(private_networks=("127.0.0.0/8",), timeout_s=0.3)
    download = Downloads(rules, MAX_BYTES, hangs, pauses_s=(0.01,))
    with web_server() as server, ThreadPoolExecutor(CONNECTIONS) as threads:
        url = server.url("/image", host="slow.example")
        codes = list(threads.map(lambda _: refusal(download, url), range(CONNECTIONS + 5)))
        assert {(code, "not answer in time" in sentence) for code, sentence in codes} == {
            ("download_failed", True)
        }
        assert threading.active_count() <= 2 * CONNECTIONS + 20
        over.set()
        assert download(url) == BODY
    download.close()
