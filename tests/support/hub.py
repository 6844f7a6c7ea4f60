"""A Hugging Face hub of one checkpoint: in the layout of its local cache, or as a server on the loopback."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

HUB_ID: Final = "somebody/tiny-llava"
COMMIT: Final = "5f0c1d" + "0" * 34


def cached(checkpoint: Path, home: Path) -> dict[str, str]:
    """Put `checkpoint` into huggingface_hub's cache; returns the variables for using it offline."""
    repository = home / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for path in checkpoint.iterdir():
        os.link(path, snapshot / path.name)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}


@contextmanager
def served(checkpoint: Path, home: Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The variables that make huggingface_hub use this server, and the names of the files that it sent."""
    sent: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0].strip("/")
            if path == f"api/models/{HUB_ID}/revision/main":
                self._json({"id": HUB_ID, "sha": COMMIT, "siblings": []})
            elif path == f"api/models/{HUB_ID}/tree/{COMMIT}":
                self._json(
                    [
                        {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _etag(file)}
                        for file in sorted(checkpoint.iterdir())
                    ]
                )
            elif path.startswith(f"{HUB_ID}/resolve/{COMMIT}/"):
                self._file(checkpoint / path.rpartition("/")[2])
            else:
                self.send_error(404)

        def do_HEAD(self) -> None:
            self.do_GET()

        def _json(self, content: object) -> None:
            self._answer(json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _file(self, file: Path) -> None:
            if self.command == "GET":
                sent.append(file.name)
            self._answer(file.read_bytes(), {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT})

        def _answer(self, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield {"HF_HOME": str(home), "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}, sent
        finally:
            server.shutdown()


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
