"""The command `server`: an embedded Valkey for a small site, with its data on disk; knows no job."""

import errno
import ipaddress
import os
import shlex
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Final

import platformdirs
import redis
import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from captionmill.app import SITE, app
from captionmill.embedded_server import EmbeddedServer, EmbeddedServerError, embedded_server
from captionmill.exits import EXIT_FAILURES, refuse, sentences
from captionmill.server_folder import (
    DAMAGED,
    KEPT,
    LOG,
    PASSWORD,
    check_folder,
    kept_password,
    server_folder,
)
from producer.run_console import signals_as_flag

NAP_S: Final = 0.2
"""Seconds between two looks for a signal."""
LOAD_S: Final = 3600.0
"""Seconds for a server to load its data; a large append-only file takes minutes."""
STOP_S: Final = 60.0
"""Seconds for a server to write its data to disk, as in docker-compose.yml."""
LEAST_BYTES: Final = 64 * 2**20
"""Smallest --max-memory."""
UNREADABLE: Final = ("append only file", "AOF", "RDB")
"""Words in Valkey's messages when it cannot read its data."""
NOWHERE: Final = ("192.0.2.1", 9)
"""A documentation address. A UDP connect to it sends nothing, but shows this machine's own address."""


def read_size(text: str) -> int:
    """A size such as 2GiB in bytes. Raises typer.BadParameter."""
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise typer.BadParameter(f"{text!r} is no size, such as 500MB or 2GiB.") from None
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if not LEAST_BYTES <= size <= machine:
        raise typer.BadParameter(
            f"{text} is not between {LEAST_BYTES // 2**20} MiB and the {_shown(machine)} of this machine."
        )
    return size


def default_folder() -> Path:
    return platformdirs.user_data_path("captionmill") / "server"


@app.command(rich_help_panel=SITE)
def server(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder for its data, log and password.",
            show_default="in the user's data folder",
            metavar="FOLDER",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 admits other machines.", metavar="ADDRESS")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.", metavar="NUMBER")] = 6379,
    max_memory: Annotated[
        Any,
        typer.Option(parser=read_size, help="Largest amount of data, such as 500MB or 2GiB.", metavar="SIZE"),
    ] = "1GiB",
    password: Annotated[
        bool,
        typer.Option(
            "--password",
            help="Require the password on this machine too; other machines always need it.",
            metavar="",
        ),
    ] = False,
) -> None:
    """Run a server for workers and runs, until Ctrl-C or SIGTERM.

    It is a Valkey. It loses no job when it is stopped, and at most those of one second when it is killed.

    Exit code: 0 after a signal, 1 if it ends by itself, 2 if it cannot start.
    """
    folder = (data or default_folder()).absolute()
    with sentences(), signals_as_flag() as stopped, ExitStack() as stack:
        check_folder(folder)
        _check_port(host, port)
        stack.enter_context(server_folder(folder))
        secret = kept_password(folder, needed=password or not _is_loopback(host))
        try:
            running = stack.enter_context(
                embedded_server(
                    folder,
                    password=secret,
                    host=host,
                    port=port,
                    options={"maxmemory": str(max_memory)},
                    start_s=LOAD_S,
                    stop_s=STOP_S,
                    stopped=stopped,
                )
            )
        except EmbeddedServerError as error:
            refuse(_why_not(error, folder))
        print(_told(running, folder, host, port, max_memory, secret), flush=True)
        while not stopped:
            if running.process.poll() is not None:
                refuse(f"The server ended by itself; {running.log} says why.", EXIT_FAILURES)
            time.sleep(NAP_S)


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    return all(ipaddress.ip_address(address).is_loopback for address in _addresses(host))


def _addresses(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        refuse(f"{host} is no address: --host takes one of this machine's own, or 0.0.0.0 for all of them.")
    return sorted({str(place[0]) for *_, place in found})


def _check_port(host: str, port: int) -> None:
    """Refuse an address and port that a server cannot listen on."""
    why: dict[int, Callable[[], str]] = {
        errno.EADDRINUSE: lambda: (
            f"Port {port} of {host} is in use, perhaps by another server: use that one, or choose another "
            "port with --port."
        ),
        errno.EADDRNOTAVAIL: lambda: (
            f"This machine has no address {host}: --host takes one of its own, or 0.0.0.0 for all of them."
        ),
        errno.EACCES: lambda: f"Port {port} is for privileged users: choose one above 1023 with --port.",
    }
    for address in _addresses(host):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as probe:
            # As the server does: recently closed connections do not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                told = why.get(error.errno or 0)
                refuse(told() if told else f"{host}:{port} cannot be opened: {error.strerror}.")


def _why_not(error: EmbeddedServerError, folder: Path) -> str:
    """A sentence that says why the server does not start."""
    lines = [line.strip() for line in error.said.splitlines() if line.strip()]
    # The server marks serious lines with # after process id and time.
    serious = [line.partition(" # ")[2] for line in lines if " # " in line and "# WARNING" not in line]
    if "Permission denied" in error.said:
        return f"Files in {folder} belong to somebody else: give them to yourself, or name another --data."
    if any(word in line for line in serious for word in UNREADABLE):
        kept, aside = (shlex.quote(str(folder / name)) for name in (KEPT, DAMAGED))
        return (
            f"What the server kept in {folder} is damaged ({serious[0].partition(':')[0]}): put it aside by "
            f"`mv {kept} {aside}` and start again; runs send what is unanswered once more."
        )
    last = serious or lines or ["it wrote nothing"]
    return f"The server does not start ({last[-1]}); {folder / LOG} has all it said."


def _told(
    running: EmbeddedServer, folder: Path, host: str, port: int, max_memory: int, password: str | None
) -> str:
    """The server's version and limits, and lines to paste on the machines that use it."""
    with redis.Redis.from_url(running.url) as connection:
        told: dict[str, Any] = connection.info()
    here = _is_loopback(host)
    place = _place(host)
    url = f"redis://{place}:{port}/0"
    lines = [
        f"Valkey {told.get('valkey_version', told['redis_version'])} at {host}:{port}; it holds "
        f"{_shown(max_memory)} at most and keeps it in {folder}. Ctrl-C ends it."
    ]
    if told["used_memory"] > max_memory:
        lines.append(
            f"It holds {_shown(told['used_memory'])} already, more than --max-memory, and takes nothing new "
            "before answers are collected."
        )
    if password is not None:
        file = shlex.quote(str(folder / PASSWORD))
        lines += ["", f"It asks for the password in {folder / PASSWORD}. Here:"]
        lines.append(f"    export CAPTIONMILL_REDIS_PASSWORD_FILE={file}")
        if not here:
            lines += [
                "On another machine, once, and the export with the path there:",
                f"    (umask 077; scp {place}:{file} captionmill-password)",
                "    export CAPTIONMILL_REDIS_PASSWORD_FILE=$PWD/captionmill-password",
            ]
    lines += [
        "",
        "A worker and a run:" if here else "Then, on any of these machines, a worker and a run:",
        f"    captionmill worker --redis {url} --model MODEL --image-root FOLDER",
        f"    captionmill run FOLDER --redis {url}",
    ]
    if here:
        lines += ["", "Only this machine reaches it. --host 0.0.0.0 lets others in, with a password."]
    return "\n".join(lines)


def _place(host: str) -> str:
    """The name of this machine in a URL for others."""
    if host in ("0.0.0.0", "::"):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect(NOWHERE)
                return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _shown(size: int) -> str:
    return ByteSize(size).human_readable()
