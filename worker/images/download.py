"""Downloads an image from a stranger's URL, from public addresses only; knows no job and no store.

A name is resolved once per connection and each of its addresses is checked. The connection goes to one of
these very addresses, under the URL's host name (ssrfguard). Sentences and logs contain nothing of a response
and no query of a URL, which may be signed.
"""

import random
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_network
from ssl import SSLContext
from typing import Any, Final

import httpcore
import httpx
from ssrfguard import (
    DEFAULT_DENIED,
    AddressTable,
    Block,
    BlockedAddressError,
    BlockedURLError,
    Policy,
    Reach,
)
from ssrfguard.httpx import SafeBackend

from contract.failure import FailureCode, Refusal
from contract.quoting import QUOTED_MAX_CHARS
from worker.errors import fulfil
from worker.images.image_file import check_bytes

CONNECT_TIMEOUT_S: Final = 5.0
RESOLVE_TIMEOUT_S: Final = 10.0
FETCH_TIMEOUT_S: Final = 90.0
"""Most seconds of a download, with all attempts and the pauses between them."""
PAUSES_S: Final = (0.5, 2.0, 6.0)
"""Seconds between the attempts after errors that may pass."""
MOST_REDIRECTS: Final = 5
REDIRECTS: Final = (301, 302, 303, 307, 308)
GONE: Final = (404, 410)
TOO_MANY: Final = 429
CONNECTIONS: Final = 64
KEEPALIVE_S: Final = 30.0
ANY_PORT: Final = frozenset(range(1, 65536))
"""Every port is allowed: what protects is the check of the address."""
DENIED: Final = AddressTable(
    (
        *DEFAULT_DENIED.blocks,
        # The only IPv6 range assigned so far: others lead nowhere, or to IPv4 through some gateway.
        Block(ip_network("::/0"), "Not Global Unicast", "RFC4291", Reach.DENIED),
        Block(ip_network("2000::/3"), "Global Unicast", "RFC4291", Reach.PERMITTED),
        # A public number, but inside Azure the platform's own address.
        Block(ip_network("168.63.129.16/32"), "Azure's virtual public address", "", Reach.DENIED),
    )
)
HEADERS: Final = (("Accept", "image/*,*/*;q=0.5"), ("Accept-Encoding", "identity"))
NO_AI: Final = frozenset({"noai", "noimageai"})
"""Values of X-Robots-Tag for pictures that no model may see."""
SHOWN_CHARACTERS: Final = QUOTED_MAX_CHARS
NOT_ALLOWED: Final = (BlockedURLError, BlockedAddressError, httpx.InvalidURL)
Resolver = Callable[..., Iterable[Any]]
"""A function like socket.getaddrinfo."""


@dataclass(frozen=True)
class UrlRules:
    """Where images may be downloaded from.

    `hosts` are names, or `*.` and a name; none allow all. `private_networks` are address ranges in CIDR form
    that are allowed although they are not public. `timeout_s` limits one attempt as a whole: connecting,
    redirects and every byte. `respect_noai` refuses images whose server does not want models to see them.
    Raises ValueError for invalid hosts and networks.
    """

    hosts: tuple[str, ...] = ()
    private_networks: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ("http", "https")
    timeout_s: float = 30.0
    user_agent: str = "captionmill"
    respect_noai: bool = False

    def __post_init__(self) -> None:
        self.policy()

    def policy(self) -> Policy:
        return Policy(
            allowed_schemes=frozenset(self.schemes) & {"http", "https"} or frozenset({"https"}),
            denied_networks=DENIED,
            allowed_networks=self.private_networks,  # type: ignore[arg-type]  # it takes text too
            allowed_hosts=frozenset(self.hosts),
            allowed_ports=ANY_PORT,
        )


class _Transient(Exception):  # noqa: N818 - not yet an error: it is tried again
    """This attempt failed, but another may not."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class Downloads:
    """One per process, shared by its threads."""

    def __init__(
        self,
        rules: UrlRules,
        max_bytes: int,
        resolver: Resolver = socket.getaddrinfo,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        self._policy = rules.policy()
        self._max_bytes = max_bytes
        self._timeout_s = rules.timeout_s
        self._headers = [*HEADERS, ("User-Agent", rules.user_agent)]
        self._respect_noai = rules.respect_noai
        self._pauses_s = tuple(pauses_s)
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=CONNECTIONS,
            keepalive_expiry=KEEPALIVE_S,
            network_backend=_TimedBackend(
                SafeBackend(policy=self._policy, resolver=_TimedResolver(resolver))
            ),
        )

    def __call__(self, url: str, deadline: float | None = None) -> bytes:
        """The content behind `url`. Raises Refusal.

        Errors that may pass are tried again after pauses, until `deadline` (monotonic seconds) at the latest.
        A server that has used up the time of an attempt is not asked again.
        """
        shown = shown_url(url)
        latest = time.monotonic() + FETCH_TIMEOUT_S
        latest = latest if deadline is None else min(latest, deadline)
        pauses_s = iter(self._pauses_s)
        while True:
            end = min(latest, time.monotonic() + self._timeout_s)
            try:
                with _attempt_until(end):
                    return self._follow(httpx.URL(url), shown)
            except _Transient as failed:
                pause_s = next(pauses_s, None) if time.monotonic() < end else None
                if pause_s is not None:
                    pause_s = max(pause_s * random.uniform(0.75, 1.25), failed.retry_after_s)
                if pause_s is None or time.monotonic() + pause_s >= latest:
                    raise _failed(shown, failed.reason) from None
                time.sleep(pause_s)
            except NOT_ALLOWED as blocked:
                raise Refusal(
                    FailureCode.URL_NOT_ALLOWED, f"{shown} is not allowed: {_why(blocked)}."
                ) from None

    def close(self) -> None:
        self._pool.close()

    def _follow(self, url: httpx.URL, shown: str) -> bytes:
        """The content, through redirects. Raises _Transient, Refusal, or what the guard raises."""
        found = self._get(url, shown)
        for _ in range(MOST_REDIRECTS):
            if isinstance(found, bytes):
                return found
            try:
                url = url.join(found)
                found = self._get(url, shown)
            except NOT_ALLOWED:
                # The target is the server's text, which is not repeated.
                raise Refusal(
                    FailureCode.URL_NOT_ALLOWED, f"{shown} redirects to a URL that is not allowed."
                ) from None
        if isinstance(found, bytes):
            return found
        raise _failed(shown, f"it redirects more than {MOST_REDIRECTS} times")

    def _get(self, url: httpx.URL, shown: str) -> bytes | str:
        """The content behind this URL alone, or where it redirects to."""
        self._policy.check_url(str(url))
        origin = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        try:
            with self._pool.stream(
                "GET", origin, headers=self._headers, extensions={"timeout": _timeouts()}
            ) as response:
                headers = _by_name(response.headers)
                if response.status in REDIRECTS and b"location" in headers:
                    return headers[b"location"]
                if self._respect_noai and _opts_out(headers):
                    raise Refusal(
                        FailureCode.URL_OPTED_OUT,
                        f"The server of {shown} wants no model to see the image (X-Robots-Tag: noai), and "
                        "this worker respects that (--respect-noai).",
                    )
                self._check_status(response.status, headers, shown)
                return self._content(response.iter_stream(), headers, shown)
        except (httpcore.TimeoutException, TimeoutError):
            raise _Transient("the server does not answer in time") from None
        except httpcore.ConnectError:
            raise _Transient("the server cannot be reached") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError):
            raise _Transient("the connection broke") from None

    def _check_status(self, status: int, headers: dict[bytes, str], shown: str) -> None:
        if status in GONE:
            raise Refusal(FailureCode.IMAGE_NOT_FOUND, f"There is no image at {shown} (status {status}).")
        if status == TOO_MANY or status >= 500:
            raise _Transient(f"the server answers with status {status}", _retry_after_s(headers))
        if status != 200:
            raise _failed(shown, f"the server answers with status {status}")

    def _content(self, chunks: Iterable[bytes], headers: dict[bytes, str], shown: str) -> bytes:
        """The decoded body, of which at most one byte above the limit is ever held."""
        content = bytearray()
        for chunk in _decoded(chunks, headers.get(b"content-encoding", ""), self._max_bytes + 1, shown):
            content += chunk
            if len(content) > self._max_bytes:
                break
        check_bytes(shown, len(content), self._max_bytes)
        return bytes(content)


def shown_url(url: str) -> str:
    """The URL for a sentence or a log: without user, query and fragment, which may be secret."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    shown = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
    return "".join(c if c.isprintable() else "?" for c in shown)[:SHOWN_CHARACTERS]


def _decoded(chunks: Iterable[bytes], encoding: str, most_bytes: int, shown: str) -> Iterator[bytes]:
    """The body of a server that compresses although asked not to, in pieces of at most `most_bytes`."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        yield from chunks
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise _failed(shown, "the server compresses it in an unknown way")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        for chunk in chunks:
            while chunk:
                yield inflater.decompress(chunk, most_bytes)
                chunk = inflater.unconsumed_tail
        if not inflater.eof:
            raise zlib.error
    except zlib.error:
        raise _failed(shown, "what the server sends cannot be decompressed") from None


def _by_name(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, str]:
    """Lower-case name → value, values of one name joined. Some servers write UTF-8, against the standard."""
    values: dict[bytes, str] = {}
    for name, value in headers:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        name = name.lower()
        values[name] = f"{values[name]}, {text}" if name in values and name != b"location" else text
    return values


def _opts_out(headers: dict[bytes, str]) -> bool:
    """Whether any directive opts out: one for a robot's name counts too, as no name is ours."""
    directives = headers.get(b"x-robots-tag", "").lower().split(",")
    return any(one.rpartition(":")[2].strip() in NO_AI for one in directives)


def _retry_after_s(headers: dict[bytes, str]) -> float:
    """Seconds that Retry-After asks for, or until its date by the server's own clock."""
    text = headers.get(b"retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    then, now = _date(text), _date(headers.get(b"date", "")) or datetime.now(UTC)
    return 0.0 if then is None else max(0.0, (then - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _failed(shown: str, reason: str) -> Refusal:
    return Refusal(FailureCode.DOWNLOAD_FAILED, f"{shown} cannot be downloaded: {reason}.")


def _why(blocked: Exception) -> str:
    """The reason without the addresses behind a name, which stay private."""
    if isinstance(blocked, BlockedAddressError):
        return "its host has an address that is not public"
    if isinstance(blocked, BlockedURLError):
        return blocked.reason
    return "it is not a URL"


# Time

_until = threading.local()


@contextmanager
def _attempt_until(end: float) -> Iterator[None]:
    """End this thread's downloads in the block at `end` (monotonic seconds), however slowly bytes come."""
    _until.end = end
    try:
        yield
    finally:
        del _until.end


def _left_s() -> float:
    left_s: float = _until.end - time.monotonic()
    if left_s <= 0:
        raise httpcore.ReadTimeout
    return left_s


def _timeouts() -> dict[str, float]:
    left_s = _left_s()
    return {"connect": min(CONNECT_TIMEOUT_S, left_s), "read": left_s, "write": left_s, "pool": left_s}


class _TimedResolver:
    """Resolves names in threads of its own, as a look-up has no time limit and cannot be ended."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._free = threading.BoundedSemaphore(CONNECTIONS)

    def __call__(self, *arguments: Any) -> list[Any]:
        """Raises TimeoutError, and what the resolver raises."""
        until = time.monotonic() + min(RESOLVE_TIMEOUT_S, _left_s())
        if not self._free.acquire(timeout=until - time.monotonic()):
            raise TimeoutError
        found: Future[list[Any]] = Future()

        def ask() -> None:
            fulfil(found, lambda: list(self._resolver(*arguments)))
            self._free.release()

        threading.Thread(target=ask, name="captionmill-resolver", daemon=True).start()
        return found.result(max(0.0, until - time.monotonic()))


class _TimedBackend(httpcore.NetworkBackend):
    """Opens connections whose every read and write keeps to what is left of the attempt."""

    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        assert timeout is not None, "_timeouts() has one"
        stream = self._inner.connect_tcp(host, port, min(timeout, _left_s()), local_address, socket_options)
        return _TimedStream(stream)


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the protocol's
        return self._inner.read(max_bytes, _left_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the protocol's
        self._inner.write(buffer, _left_s())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        assert timeout is not None, "_timeouts() has one"
        return _TimedStream(self._inner.start_tls(ssl_context, server_hostname, min(timeout, _left_s())))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
