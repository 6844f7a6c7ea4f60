"""Serves /livez, /readyz and /metrics on a small port; knows neither what is healthy nor what is counted."""

import logging
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST

from worker.monitoring.health import Health

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S: Final = 5.0
"""Seconds after which a silent client is disconnected."""


class HttpPort:
    """Listens from the start. `health` returns the last look or None, `metrics` the text. Raises OSError."""

    def __init__(
        self, host: str, port: int, health: Callable[[], Health | None], metrics: Callable[[], bytes]
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_TIMEOUT_S
            protocol_version = "HTTP/1.0"
            server_version, sys_version = "captionmill", ""

            def do_GET(self) -> None:
                match self.path.partition("?")[0]:
                    case "/livez":
                        self._send_health(health(), "live")
                    case "/readyz":
                        self._send_health(health(), "ready")
                    case "/metrics":
                        self._send(HTTPStatus.OK, metrics(), CONTENT_TYPE_LATEST)
                    case _:
                        self._send(HTTPStatus.NOT_FOUND, b"/livez, /readyz or /metrics\n", "text/plain")

            def _send_health(self, look: Health | None, wanted: str) -> None:
                holds = look is not None and bool(getattr(look, wanted))
                body = (look.as_json() if look is not None else "{}") + "\n"
                status = HTTPStatus.OK if holds else HTTPStatus.SERVICE_UNAVAILABLE
                self._send(status, body.encode(), "application/json")

            def _send(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Write no line for a request."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                error = sys.exception()
                if not isinstance(error, ConnectionError | TimeoutError):
                    log.error("a request to the health port failed", exc_info=error)

        self._server = Server((host, port), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="captionmill-http", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        port: int = self._server.server_address[1]
        return port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
