"""`captionmill server`: what it holds outlives it, strangers need a password, and refusals say what to do."""

import logging
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from contract.store import WORKERS_KEY
from tests.support.family import alive, descendants
from tests.support.processes import PATIENCE_S, ROOT, free_port, spawn, wait_until
from worker.delivery.server_check import check_server

MODEL: Final = ROOT / "demo" / "model" / "openvino"
IMAGES: Final = ROOT / "demo" / "images"
COMMAND: Final = (sys.executable, "-m", "captionmill", "server")


class Server:
    """One that was started, and all it printed."""

    def __init__(self, folder: Path, data: Path, *options: str) -> None:
        self.port = free_port()
        self.data = data
        self._printed = folder / f"printed-{self.port}.txt"
        self.process = spawn(
            [*COMMAND, "--data", str(data), "--port", str(self.port), *options], self._printed, {}
        )
        wait_until(self._ready)

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.printed
        return "captionmill run FOLDER" in self.printed

    @property
    def printed(self) -> str:
        return self._printed.read_text()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def password(self) -> str:
        return (self.data / "password").read_text().strip()

    def connection(self, **options: Any) -> redis.Redis:
        return redis.Redis(port=self.port, **options)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait()


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server on a folder of the test's own."""
    servers: list[Server] = []

    def one(*options: str, data: Path = tmp_path / "data") -> Server:
        servers.append(Server(tmp_path, data, *options))
        return servers[-1]

    yield one
    for server in servers:
        server.process.kill()
        server.process.wait()


def test_a_worker_finds_nothing_wrong_with_it(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start()
    with caplog.at_level(logging.WARNING):
        check_server(server.url, require_durable=True)
    assert caplog.text == ""
    with server.connection() as connection:
        told: Any = connection.config_get("*")
    assert (told["appendonly"], told["appendfsync"], told["save"]) == ("yes", "everysec", "")
    assert (told["maxmemory"], told["maxmemory-policy"]) == (str(2**30), "noeviction")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_and_it_goes_on_where_it_was(start: Start, number: signal.Signals) -> None:
    first = start()
    children = descendants(first.process.pid)
    with first.connection() as connection:
        connection.rpush("captionmill.jobs", *map(str, range(1000)))
    assert first.end(number) == 0
    assert not any(alive(child) for child in children)
    assert "ready to exit" in (first.data / "valkey.log").read_text()
    with start().connection() as connection:
        assert connection.llen("captionmill.jobs") == 1000


def test_a_kill_takes_the_server_with_it_and_what_it_held_stays(start: Start) -> None:
    first = start()
    (child,) = descendants(first.process.pid)
    with first.connection() as connection:
        connection.rpush("captionmill.jobs", *map(str, range(1000)))
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not alive(child))
    with start().connection() as connection:
        assert connection.llen("captionmill.jobs") == 1000


def test_a_server_that_ends_by_itself_is_told_of(start: Start) -> None:
    server = start()
    (child,) = descendants(server.process.pid)
    os.kill(child, signal.SIGKILL)
    assert server.process.wait() == 1
    assert f"The server ended by itself; {server.data / 'valkey.log'} says why." in server.printed


def test_other_machines_need_a_password_which_stays_the_same(start: Start) -> None:
    first = start("--host", "0.0.0.0")
    password = first.password
    assert len(password) >= 32
    assert stat.S_IMODE((first.data / "password").stat().st_mode) == 0o600
    with first.connection() as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    (child,) = descendants(first.process.pid)
    for process in (first.process.pid, child):
        assert password not in Path(f"/proc/{process}/cmdline").read_text()
        assert password not in Path(f"/proc/{process}/environ").read_text()
    assert first.end() == 0
    second = start("--host", "0.0.0.0")
    assert second.password == password
    with second.connection(password=password) as friend:
        assert friend.ping()
    assert second.end() == 0
    # On a machine that gave the password once, it is asked for here, too.
    third = start()
    with third.connection() as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    for one in (first, second, third):
        assert password not in one.printed
    assert password not in (first.data / "valkey.log").read_text()


def test_only_its_owner_reads_what_it_keeps(start: Start) -> None:
    server = start("--password")
    with server.connection(password=server.password) as connection:
        connection.rpush("captionmill.jobs", "a question that is nobody's business")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (server.data, *server.data.rglob("*"))}
    open_ones = {path.name for path, mode in modes.items() if mode & 0o077}
    assert open_ones <= {"valkey.log"}


def test_a_password_of_ones_own_may_hold_any_sign(start: Start, tmp_path: Path) -> None:
    password = """a"b\\c'd#e f@:/%-_~!""".replace(" ", "")
    data = tmp_path / "data"
    data.mkdir()
    (data / "password").write_text(f"{password}\n")
    (data / "password").chmod(0o600)
    with start().connection(password=password) as connection:
        assert connection.ping()


def pasted(printed: str, command: str) -> list[str]:
    """A line that the server printed, with the model and the folder filled in."""
    (line,) = re.findall(rf"^ +captionmill ({command} .*)$", printed, flags=re.MULTILINE)
    filled = line.replace("MODEL", str(MODEL)).replace("FOLDER", str(IMAGES))
    return [sys.executable, "-m", "captionmill", *shlex.split(filled)]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_lines_to_paste_start_a_worker_and_a_run(start: Start, tmp_path: Path, host: str) -> None:
    server = start("--host", host)
    exported = re.search(
        r"^ +export CAPTIONMILL_REDIS_PASSWORD_FILE=(\S+)$", server.printed, flags=re.MULTILINE
    )
    assert (exported is not None) == (host == "0.0.0.0")
    password = {"CAPTIONMILL_REDIS_PASSWORD_FILE": exported[1]} if exported else {}
    log = tmp_path / "worker.log"
    # Tests may run on one core, which computes in f32 alone.
    worker = spawn(pasted(server.printed, "worker"), log, {**password, "CAPTIONMILL_PRECISION": "exact"})
    try:
        with server.connection(password=server.password if password else None) as connection:

            def ready() -> bool:
                assert worker.poll() is None, log.read_text()
                return bool(connection.hlen(WORKERS_KEY))

            wait_until(ready)
        run = [
            *pasted(server.printed, "run"),
            "--question",
            "Describe the image.",
            "--out",
            str(tmp_path / "out"),
        ]
        assert spawn(run, tmp_path / "run.log", password).wait() == 0, (tmp_path / "run.log").read_text()
    finally:
        worker.kill()
        worker.wait()
    assert len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 24


def test_what_it_holds_may_be_more_than_it_may_hold(start: Start) -> None:
    first = start("--max-memory", "200MiB")
    with first.connection() as connection:
        for part in range(80):
            connection.set(f"part {part}", b"x" * 2**20)
    first.end()
    assert "more than --max-memory" in start("--max-memory", "64MiB").printed


def refused(*options: str) -> str:
    """The sentence with which the command ends at once."""
    ended = subprocess.run(
        [*COMMAND, *options], cwd=ROOT, check=False, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ended.returncode == 2, ended.stdout
    assert "Traceback" not in ended.stderr
    return ended.stderr


def seen(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused("--data", str(tmp_path / "data"), "--port", str(port))
    assert said == (
        f"captionmill: Port {port} of 127.0.0.1 is in use, perhaps by another server: use that one, or "
        "choose another port with --port.\n"
    )
    assert seen(tmp_path) == {}


def test_a_folder_in_use(start: Start) -> None:
    server = start()
    said = refused("--data", str(server.data), "--port", str(server.port))
    assert said == (
        f"captionmill: Another `captionmill server` is at work on {server.data}: use that one, or name "
        "another folder with --data.\n"
    )
    with server.connection() as connection:
        assert connection.ping()


@pytest.mark.parametrize("damage", ["middle", "manifest", "missing"])
def test_a_damaged_file_is_put_aside_as_the_sentence_says(start: Start, damage: str) -> None:
    first = start()
    with first.connection() as connection:
        connection.rpush("captionmill.jobs", *("x" * 100 for _ in range(1000)))
        connection.set("k", "v")
    first.end()
    (file,) = (first.data / "appendonlydir").glob("*incr.aof")
    if damage == "middle":
        with file.open("r+b") as stream:
            at = file.read_bytes().index(b"$100", 50_000)
            stream.seek(at)
            stream.write(b"!")
    elif damage == "manifest":
        (first.data / "appendonlydir" / "appendonly.aof.manifest").write_text("damage\n")
    else:
        file.unlink()
    said = refused("--data", str(first.data), "--port", str(free_port()))
    assert said.startswith(f"captionmill: What the server kept in {first.data} is damaged (")
    assert len(said.splitlines()) == 1
    (remedy,) = re.findall(r"`(mv .*)`", said)
    subprocess.run(remedy, shell=True, check=True)
    second = start()
    with second.connection() as connection:
        assert connection.llen("captionmill.jobs") == 0
    assert second.end() == 0
    # What was put aside is no reason to refuse the folder.
    start()


def test_a_file_that_was_cut_short_loses_its_end_alone(start: Start) -> None:
    """As after a loss of power."""
    first = start()
    with first.connection() as connection:
        connection.set("before", "v")
        connection.set("last", "v")
    first.end()
    (file,) = (first.data / "appendonlydir").glob("*incr.aof")
    os.truncate(file, file.stat().st_size - 3)
    with start().connection() as connection:
        assert connection.exists("before", "last") == 1


REFUSED: Final = {
    "other files": (
        ("--data", "{other}"),
        "{other} holds other files, such as photo.png: name an empty folder with --data, or one that",
    ),
    "a file": (
        ("--data", "{other}/photo.png"),
        "{other}/photo.png cannot be used (Not a directory): name a folder",
    ),
    "a folder below a file": (
        ("--data", "{other}/photo.png/data"),
        "{other}/photo.png/data cannot be used (Not a directory): name a folder that you may",
    ),
    "a folder of the kernel's": (
        ("--data", "/proc/server"),
        "/proc/server cannot be used (No such file or directory): name a folder that you may",
    ),
    "an address of another machine": (
        ("--data", "{new}", "--host", "192.0.2.77"),
        "This machine has no address 192.0.2.77: --host takes one of its own, or 0.0.0.0 for all of them.",
    ),
    "no address": (
        ("--data", "{new}", "--host", "300.0.0.1"),
        "300.0.0.1 is no address: --host takes one of this machine's own, or 0.0.0.0 for all of them.",
    ),
    "a password that others can read": (
        ("--data", "{readable}"),
        "Others can read the password in {readable}/password: chmod 600 {readable}/password",
    ),
    "a password that is none": (
        ("--data", "{weak}"),
        "The first line of {weak}/password is no password of 16 or more letters, digits and signs without",
    ),
}
"""What is wrong → options, and the sentence's beginning."""


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_refused_in_a_sentence_that_says_what_to_do(tmp_path: Path, what: str) -> None:
    names = {name: tmp_path / name for name in ("other", "readable", "weak", "new")}
    for name in ("other", "readable", "weak"):
        names[name].mkdir()
    (names["other"] / "photo.png").touch()
    for name, password, mode in (
        ("readable", "a-good-password-of-somebody", 0o644),
        ("weak", "short", 0o600),
    ):
        (names[name] / "password").write_text(password)
        (names[name] / "password").chmod(mode)
        (names[name] / "lock").touch()
    before = seen(tmp_path)
    options, sentence = REFUSED[what]
    said = refused(*(option.format(**names) for option in options), "--port", str(free_port()))
    assert said.startswith(f"captionmill: {sentence.format(**names)}"), said
    assert len(said.splitlines()) == 1
    assert seen(tmp_path) == before


@pytest.mark.parametrize("size", ["much", "1MB", "999TB", "-1", ""])
def test_sizes_that_are_none(tmp_path: Path, size: str) -> None:
    assert "--max-memory" in refused("--data", str(tmp_path / "data"), "--max-memory", size)
    assert seen(tmp_path) == {}
