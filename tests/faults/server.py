"""A Redis-compatible server that can be killed, frozen, emptied and torn; knows nothing of what it keeps."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import redis

from tests.support.processes import free_port, start_server

DURABLE: Final[Mapping[str, str]] = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
}
"""As docs/reliability.md asks of a server."""


class Server:
    """One port, on which one process after the other serves the same folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self.connection: Any = redis.Redis.from_url(self.url, socket_timeout=10)

    @property
    def pid(self) -> int:
        assert self._process is not None, "it is started"
        return self._process.pid

    def start(self) -> None:
        """Return when it answers."""
        assert self._process is None, "one at a time"
        self._process, _ = start_server(self._folder, self.port, DURABLE)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def forget_everything(self) -> None:
        """As a server does that is killed and keeps nothing on disk; it must not run."""
        assert self._process is None, "it is killed"
        shutil.rmtree(self._folder / "appendonlydir")

    def tear_log(self, lost_bytes: int) -> None:
        """Cut the end of what was written last, as a power failure does; it must not run."""
        assert self._process is None, "it is killed"
        [log] = (self._folder / "appendonlydir").glob("*.incr.aof")
        os.truncate(log, max(0, log.stat().st_size - lost_bytes))

    def fill(self) -> None:
        """From now on there is no memory for what is new."""
        self.connection.config_set("maxmemory", 1)

    def make_room(self) -> None:
        self.connection.config_set("maxmemory", 0)

    def stop(self) -> None:
        self.connection.close()
        self.kill()
