"""A real HTTP server on the loopback whose every path misbehaves in its own way."""

import gzip
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = b"\x89PNG and what follows" * 10
HUGE_BYTES = 50_000_000


class WebServer(ThreadingHTTPServer):
    """Counts the requests of each path, and keeps their headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.closing = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

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

    def do_leave(self, _: str, target: str) -> None:
        self._send(302, location=target)

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

    def _drip(self) -> None:
        while not self.server.closing.is_set():
            self.wfile.write(b"x")
            time.sleep(0.02)


@contextmanager
def web_server() -> Iterator[WebServer]:
    server = WebServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
