"""A real HTTP server on the loopback whose every path misbehaves in its own way."""

import gzip
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

BODY = b"\x89PNG and what follows" * 10
HUGE_BYTES = 50_000_000
OK = b"HTTP/1.1 200 OK\r\n"
RAW = {
    "nothing": b"",
    "another-protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "no-status": BODY,
    "status-of-words": b"HTTP/1.1 fine OK\r\n\r\n",
    "length-below-zero": OK + b"Content-Length: -1\r\n\r\n" + BODY,
    "length-of-words": OK + b"Content-Length: many\r\n\r\n" + BODY,
    "two-lengths": OK + b"Content-Length: 5\r\nContent-Length: 9\r\n\r\n" + BODY,
    "length-too-long": OK + b"Content-Length: 9999\r\n\r\n" + BODY,
    "length-of-20-digits": OK + b"Content-Length: 99999999999999999999\r\n\r\n" + BODY,
    "chunk-of-words": OK + b"Transfer-Encoding: chunked\r\n\r\nmany\r\n" + BODY,
    "chunk-never-ends": OK + b"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n" + BODY,
    "unknown-transfer": OK + b"Transfer-Encoding: rot13\r\n\r\n" + BODY,
    "header-without-colon": OK + b"no colon\r\n\r\n" + BODY,
    "header-with-nul": OK + b"X: a\x00b\r\n\r\n" + BODY,
    "header-of-a-megabyte": OK + b"X: " + b"x" * 10**6 + b"\r\n\r\n" + BODY,
    "100000-headers": OK + b"X: x\r\n" * 10**5 + b"\r\n" + BODY,
    "redirect-nowhere": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
    "redirect-with-bytes": b"HTTP/1.1 302 Found\r\nLocation: http://\xff\xfe:0/\r\nContent-Length: 0\r\n\r\n",
    "redirect-of-50-KB": b"HTTP/1.1 302 Found\r\nLocation: /" + b"a" * 50_000 + b"\r\n\r\n",
    "switching-protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n" + BODY,
}
ENDLESS = {
    "body": (OK + b"\r\n", bytes(10_000)),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + bytes(4096) + b"\r\n"),
    "headers": (OK, b"X: x\r\n" * 100),
    "header": (OK + b"X: ", b"x" * 10_000),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "chunk-extension": (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 10_000),
    "chunk-trailer": (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: x\r\n" * 100),
    "empty-chunks-of-gzip": (
        OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"14\r\n" + gzip.compress(b"") + b"\r\n",
    ),
}


class WebServer(ThreadingHTTPServer):
    """Counts the requests of each path and keeps their headers."""

    daemon_threads = True

    def __init__(self, host: str) -> None:
        super().__init__((host, 0), _Answer)
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.dated: list[float] = []
        """When /dated was asked for, in seconds of the Unix time."""
        self.closing = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def url(self, path: str, host: str | None = None) -> str:
        return f"http://{host or self.server_address[0]!s}:{self.port}{path}"

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are the point here."""


class _Answer(BaseHTTPRequestHandler):
    server: WebServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.server.asked[path] += 1
        self.server.headers.append(dict(self.headers))
        name, _, argument = path[1:].partition("/")
        getattr(self, f"do_{name}", self.do_missing)(argument, query)

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for header, value in {"content_length": str(len(body)), **headers}.items():
            self.send_header(header.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_missing(self, *_: str) -> None:
        self._send(404, b"secret words of the server")

    def do_image(self, *_: str) -> None:
        self._send(200, BODY, set_cookie="tracked=yes")

    def do_empty(self, *_: str) -> None:
        self._send(200)

    def do_status(self, status: str, _: str) -> None:
        self._send(int(status), b"secret words of the server")

    def do_closing(self, *_: str) -> None:
        """503, and the next attempt needs a connection of its own."""
        self.close_connection = True
        self._send(503, b"secret words of the server", connection="close")

    def do_limited(self, times: str, retry_after: str) -> None:
        """So many times 429, then the image."""
        if self.server.asked[f"/limited/{times}"] <= int(times):
            self._send(429, retry_after=retry_after)
        else:
            self.do_image()

    def do_failing(self, times: str, retry_after: str) -> None:
        """So many times 503, then the image."""
        if self.server.asked[f"/failing/{times}"] <= int(times):
            headers = {"retry_after": retry_after} if retry_after else {}
            self._send(503, b"secret words of the server", **headers)
        else:
            self.do_image()

    def do_redirect(self, times: str, _: str) -> None:
        """So many times; the bodies of these answers never end."""
        left = int(times) - 1
        self.send_response(302)
        self.send_header("Location", f"/redirect/{left}" if left else "/image")
        self.send_header("Content-Length", str(HUGE_BYTES))
        self.end_headers()

    def do_loop(self, *_: str) -> None:
        self._send(302, location=self.path)

    def do_leave(self, _: str, target: str) -> None:
        self._send(302, location=target)

    def do_named(self, argument: str, _: str) -> None:
        """A redirect to a name that is not ASCII: /named/utf-8 with its bytes as they are."""
        self.close_connection = True
        if argument:
            location = "/named?ü=Bär".encode(argument)
            self.wfile.write(
                b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"
            )
        elif self.path == "/named?%C3%BC=B%C3%A4r":
            self.do_image()
        else:
            self.do_missing()

    def do_robots(self, _: str, told: str) -> None:
        self._send(200, BODY, x_robots_tag=unquote(told))

    def do_dated(self, _: str, seconds: str) -> None:
        """503 once with a date, then the image."""
        self.server.dated.append(time.time())
        if self.server.asked["/dated"] == 1:
            date = formatdate(time.time() + int(seconds), usegmt=True)
            self._send(503, b"secret words of the server", retry_after=date)
        else:
            self.do_image()

    def do_huge(self, *_: str) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for _chunk in range(HUGE_BYTES // 10_000):
            self.wfile.write(bytes(10_000))

    def do_gzip(self, *_: str) -> None:
        self._send(200, gzip.compress(BODY), content_encoding="gzip")

    def do_halfzip(self, *_: str) -> None:
        self._send(200, gzip.compress(BODY)[:-20], content_encoding="gzip")

    def do_bomb(self, *_: str) -> None:
        self._send(200, gzip.compress(bytes(HUGE_BYTES)), content_encoding="gzip")

    def do_garbled(self, *_: str) -> None:
        self._send(200, BODY, content_encoding="gzip")

    def do_brotli(self, *_: str) -> None:
        self._send(200, BODY, content_encoding="br")

    def do_drip(self, *_: str) -> None:
        """A byte at a time, for ever."""
        self.send_response(200)
        self.send_header("Content-Length", str(HUGE_BYTES))
        self.end_headers()
        self._drip()

    def do_driphead(self, *_: str) -> None:
        """As above, within the headers."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        self._drip()

    def do_cut(self, *_: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[:20])
        self.close_connection = True

    def do_reset(self, *_: str) -> None:
        """The connection breaks within the body, without a farewell."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[:20])
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def do_raw(self, name: str, _: str) -> None:
        """What no server should send; the connection ends after it."""
        self.close_connection = True
        self.wfile.write(RAW[name])

    def do_endless(self, name: str, _: str) -> None:
        """The beginning once, the rest for ever."""
        begin, rest = ENDLESS[name]
        self.close_connection = True
        self.wfile.write(begin)
        while not self.server.closing.is_set():
            self.wfile.write(rest)

    def _drip(self) -> None:
        while not self.server.closing.is_set():
            self.wfile.write(b"x")
            time.sleep(0.02)


@contextmanager
def web_server(host: str = "127.0.0.1") -> Iterator[WebServer]:
    server = WebServer(host)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
