"""Images by URL: from public addresses only, within limits of size and time, no secret in any sentence."""

import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from contract.failure import Refusal
from tests.support.processes import free_port
from tests.support.web_server import BODY, WebServer, web_server
from worker.images.download import Downloads, UrlRules, shown_url

LOOPBACK = UrlRules(private_networks=("127.0.0.0/8",))
MAX_BYTES = 10_000


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with web_server() as running:
        yield running


@pytest.fixture
def download() -> Iterator[Downloads]:
    made = Downloads(LOOPBACK, MAX_BYTES, pauses_s=(0.01, 0.01))
    yield made
    made.close()


class Resolver:
    """Returns lists of addresses for a host, one after the other."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, *_: Any) -> list[Any]:
        self.asked.append(host)
        found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if not found:
            raise socket.gaierror("no such host")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (one, port, 0, 0))
            if ":" in one
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
            for one in found
        ]


def refusal(download: Downloads, url: str, deadline: float | None = None) -> tuple[str, str]:
    with pytest.raises(Refusal) as refused:
        download(url, deadline)
    failure = refused.value.failure
    assert "secret" not in failure.message
    return failure.code.value, failure.message


def test_an_image_is_downloaded_without_cookies_or_compression(
    server: WebServer, download: Downloads
) -> None:
    server.headers.clear()
    assert download(server.url("/image?secret=1")) == BODY
    assert download(server.url("/image")) == BODY
    for headers in server.headers:
        assert headers["Host"] == f"127.0.0.1:{server.port}"
        assert headers["Accept-Encoding"] == "identity"
        assert "Cookie" not in headers


def test_what_is_compressed_after_all_is_decoded(server: WebServer, download: Downloads) -> None:
    assert download(server.url("/gzip")) == BODY


@pytest.mark.parametrize(
    ("path", "code", "reason"),
    [
        ("/gone", "image_not_found", "(status 404)"),
        ("/status/410", "image_not_found", "(status 410)"),
        ("/status/403", "download_failed", "status 403"),
        ("/status/204", "download_failed", "status 204"),
        ("/empty", "not_an_image", "is empty"),
        ("/huge", "image_too_large", "more than the 10000 bytes"),
        ("/bomb", "image_too_large", "more than the 10000 bytes"),
        ("/garbled", "download_failed", "cannot be decompressed"),
        ("/halfzip", "download_failed", "cannot be decompressed"),
        ("/brotli", "download_failed", "compresses it"),
        ("/redirect/6", "download_failed", "redirects more than 5 times"),
        ("/leave?http://[", "url_not_allowed", "redirects to a URL that is not allowed"),
        ("/leave?ftp://example.com/secret", "url_not_allowed", "redirects to a URL that is not allowed"),
        ("/leave?http://10.0.0.1/secret", "url_not_allowed", "redirects to a URL that is not allowed"),
        ("/leave?http://user:secret@example.com/", "url_not_allowed", "redirects to a URL"),
    ],
)
def test_what_cannot_be_downloaded_is_refused_once(
    server: WebServer, download: Downloads, path: str, code: str, reason: str
) -> None:
    server.asked.clear()
    found, sentence = refusal(download, server.url(path))
    assert (found, reason in sentence) == (code, True), sentence
    assert server.asked[path.partition("?")[0]] == 1


def test_redirects_are_followed_without_reading_their_bodies(server: WebServer, download: Downloads) -> None:
    assert download(server.url("/redirect/5")) == BODY


@pytest.mark.parametrize("path", ["/status/500", "/status/429", "/cut"])
def test_what_may_pass_is_tried_again_and_then_refused(
    server: WebServer, download: Downloads, path: str
) -> None:
    server.asked.clear()
    assert refusal(download, server.url(f"{path}?secret"))[0] == "download_failed"
    assert server.asked[path] == 3


def test_what_passes_is_downloaded_after_all(server: WebServer, download: Downloads) -> None:
    server.asked.clear()
    assert download(server.url("/failing/2")) == BODY
    assert server.asked["/failing/2"] == 3


def test_a_server_is_left_alone_for_as_long_as_it_asks(server: WebServer, download: Downloads) -> None:
    server.asked.clear()
    begun = time.monotonic()
    assert download(server.url("/failing/1?1")) == BODY
    assert time.monotonic() - begun >= 1
    # Longer than the job may take: not tried again, and not waited for.
    server.asked.clear()
    assert refusal(download, server.url("/failing/1?60"), time.monotonic() + 30)[0] == "download_failed"
    assert server.asked["/failing/1"] == 1


def test_a_date_to_come_again_is_waited_for(server: WebServer, download: Downloads) -> None:
    server.asked.clear()
    assert refusal(download, server.url("/dated?60"), time.monotonic() + 30)[0] == "download_failed"
    assert server.asked["/dated"] == 1, "the date is later than the job may take"
    server.asked.clear()
    assert download(server.url("/dated?-60"), time.monotonic() + 30) == BODY


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_redirect_to_a_name_that_is_not_ascii(
    server: WebServer, download: Downloads, encoding: str
) -> None:
    assert download(server.url(f"/named/{encoding}")) == BODY


@pytest.mark.parametrize(
    ("told", "opts_out"),
    [
        ("noai", True),
        ("index,%20NoImageAI", True),
        ("somebot:%20noai", True),
        ("noindex", False),
        ("", False),
    ],
)
def test_pictures_that_no_model_may_see(server: WebServer, told: str, opts_out: bool) -> None:
    rules = UrlRules(private_networks=("127.0.0.0/8",), user_agent="me (mail@example.org)", respect_noai=True)
    download, ordinary = Downloads(rules, MAX_BYTES), Downloads(LOOPBACK, MAX_BYTES)
    url = server.url(f"/robots?{told}")
    assert ordinary(url) == BODY
    if opts_out:
        code, sentence = refusal(download, url)
        assert (code, "--respect-noai" in sentence) == ("url_opted_out", True)
    else:
        assert download(url) == BODY
    assert [one["User-Agent"] for one in server.headers[-2:]] == ["captionmill", "me (mail@example.org)"]
    for one in (download, ordinary):
        one.close()


@pytest.mark.parametrize("path", ["/drip", "/driphead"])
def test_bytes_that_drip_in_end_with_the_time_there_is(
    server: WebServer, download: Downloads, path: str
) -> None:
    code, sentence = refusal(download, server.url(path), time.monotonic() + 0.3)
    assert (code, "not answer in time" in sentence) == ("download_failed", True)


def test_a_host_that_is_away_or_unknown_is_tried_again() -> None:
    port = free_port()
    for answer in (["127.0.0.1"], []):
        resolver = Resolver(answer)
        download = Downloads(LOOPBACK, MAX_BYTES, resolver, pauses_s=(0.01,))
        code, sentence = refusal(download, f"http://example.com:{port}/a.png?secret")
        assert (code, "cannot be reached" in sentence) == ("download_failed", True)
        assert len(resolver.asked) == 2


# Where to


REFUSED = """
0.0.0.0 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.254 127.0.0.1 127.8.9.10 169.254.169.254 169.254.0.1
172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1 192.168.0.1 192.168.255.255 198.18.0.1 198.51.100.1
203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 100.100.100.200 :: ::1 fc00::1 fd00:ec2::254
fe80::1 ff02::1 2001:db8::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1
64:ff9b::a9fe:a9fe 2002:7f00:1:: 2002:a9fe:a9fe:: 2002:a00:1:: ::127.0.0.1 64:ff9b:1::1 100::1 2001::1 fec0::1
""".split()  # noqa: SIM905 - a list would be a page


def test_there_are_enough_of_them() -> None:
    assert len(set(REFUSED)) >= 40


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_are_not_public_are_refused_by_name_and_as_they_are(address: str) -> None:
    resolver = Resolver([address])
    download = Downloads(UrlRules(), MAX_BYTES, resolver, pauses_s=())
    code, sentence = refusal(download, "http://inside.example/a.png?secret")
    assert (code, address in sentence) == ("url_not_allowed", False), sentence
    literal = f"[{address}]" if ":" in address else address
    assert refusal(download, f"http://{literal}/a.png")[0] == "url_not_allowed"
    assert resolver.asked == ["inside.example"]


@pytest.mark.parametrize(
    "written", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "①②⑦.0.0.1"]
)
def test_other_spellings_of_the_loopback_are_refused_too(written: str) -> None:
    download = Downloads(UrlRules(), MAX_BYTES, pauses_s=())
    assert refusal(download, f"http://{written}/a.png")[0] == "url_not_allowed"


@pytest.mark.parametrize("address", REFUSED[:5])
def test_one_bad_address_among_good_ones_is_enough(address: str) -> None:
    download = Downloads(UrlRules(), MAX_BYTES, Resolver(["93.184.216.34", address]), pauses_s=())
    assert refusal(download, "http://example.com/")[0] == "url_not_allowed"


@pytest.mark.parametrize(
    "url",
    ["http://", "http:///a", "http://user:secret@example.com/a.png", "http://exa mple.com/", "http://a:0/"],
)
def test_urls_that_are_none_are_refused(url: str) -> None:
    assert refusal(Downloads(UrlRules(), MAX_BYTES, Resolver([])), url)[0] == "url_not_allowed"


def test_what_was_checked_is_what_is_connected_to(server: WebServer) -> None:
    """A resolver that changes its mind is asked once for a connection."""
    resolver = Resolver(["127.0.0.1"], ["10.0.0.1"])
    download = Downloads(LOOPBACK, MAX_BYTES, resolver, pauses_s=())
    server.headers.clear()
    assert download(server.url("/image", host="rebound.example")) == BODY
    assert resolver.asked == ["rebound.example"]
    assert server.headers[0]["Host"] == f"rebound.example:{server.port}"
    download.close()


def test_a_redirect_is_resolved_and_checked_like_any_other(server: WebServer) -> None:
    resolver = Resolver(["127.0.0.1"], ["10.0.0.1"])
    download = Downloads(LOOPBACK, MAX_BYTES, resolver, pauses_s=())
    code, _ = refusal(download, server.url("/leave?http://other.example/secret", host="first.example"))
    assert (code, resolver.asked) == ("url_not_allowed", ["first.example", "other.example"])
    download.close()


def test_a_certificate_is_asked_for_by_name() -> None:
    """The host name is in the clear in the first message of TLS, whatever address it goes to."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:

        def greeted() -> bytes:
            connection, _ = listener.accept()
            with connection:
                return connection.recv(4096)

        hello = thread.submit(greeted)
        download = Downloads(LOOPBACK, MAX_BYTES, Resolver(["127.0.0.1"]), pauses_s=())
        url = f"https://images.example:{listener.getsockname()[1]}/a.png"
        assert refusal(download, url)[0] == "download_failed"
        assert b"images.example" in hello.result()


def test_only_hosts_on_the_list_are_asked(server: WebServer) -> None:
    rules = UrlRules(("images.example", "*.cdn.example"), ("127.0.0.0/8",))
    download = Downloads(rules, MAX_BYTES, Resolver(["127.0.0.1"]), pauses_s=())
    for host in ("images.example", "a.cdn.example", "IMAGES.example"):
        assert download(server.url("/image", host=host)) == BODY
    for host in ("127.0.0.1", "cdn.example", "evil-images.example", "images.example.evil.example"):
        assert refusal(download, server.url("/image", host=host))[0] == "url_not_allowed"
    code, _ = refusal(download, server.url("/leave?http://other.example/", host="images.example"))
    assert code == "url_not_allowed"
    download.close()


def test_no_proxy_is_taken_from_the_environment(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    fresh = Downloads(LOOPBACK, MAX_BYTES, pauses_s=())
    assert fresh(server.url("/image")) == BODY
    fresh.close()


@pytest.mark.parametrize("rules", [{"hosts": ("a.*.b",)}, {"private_networks": ("10.0.0.300",)}])
def test_rules_that_make_no_sense_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"a\.\*\.b|10\.0\.0\.300"):
        UrlRules(**rules)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@h.example/a/b.png?sig=1#x", "https://h.example/a/b.png"),
        ("http://h?sig=1", "http://h"),
        ("http://h/\n\x1b[1m", "http://h/??[1m"),
        ("http://h/?u=http://user@x", "http://h/"),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert shown_url(url) == shown
