"""The producer's connection: how it waits for a server, and what it says of one that is of no use."""

import logging
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from producer.connection import CONNECT_TIMEOUT_S, MINUTES, TOLD_AFTER, Pauses, connect
from tests.support.command import run_command
from tests.support.processes import free_port, start_server


def test_a_wait_of_minutes_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    pauses = Pauses(MINUTES)
    with caplog.at_level(logging.WARNING, "producer.connection"):
        for failures in range(1, TOLD_AFTER):
            pauses.compute(failures)
        assert not caplog.records
        waited = sum(pauses.compute(failures) for failures in range(TOLD_AFTER, MINUTES.retries + 1))
    assert len(caplog.records) == 1
    assert "five minutes" in caplog.text
    assert 240 < waited < (MINUTES.retries + 1) * CONNECT_TIMEOUT_S


def test_what_is_checked_meanwhile_ends_the_wait() -> None:
    def check() -> None:
        raise RuntimeError("it is in vain")

    with pytest.raises(RuntimeError, match="in vain"):
        Pauses(MINUTES, check).compute(1)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that wants the password `secret`."""
    process, url = start_server(tmp_path_factory.mktemp("guarded"))
    with redis.Redis.from_url(url) as connection:
        connection.config_set("requirepass", "secret")
    yield int(url.rpartition(":")[2])
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def listening() -> Iterator[Callable[[bytes | None], int]]:
    """Opens a port that gives one answer to whatever comes and closes, or is silent."""
    with ExitStack() as stack:

        def listen(answer: bytes | None) -> int:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            threading.Thread(target=_serve, args=(server, answer), daemon=True).start()
            port: int = server.getsockname()[1]
            return port

        yield listen


def _serve(server: socket.socket, answer: bytes | None) -> None:
    kept = []
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        if answer is None:
            kept.append(client)
            continue
        with client:
            client.recv(4096)
            client.sendall(answer)


HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
LOADING = b"-LOADING Valkey is loading the dataset in memory\r\n" * 5
NO_PERMISSION = b"-NOPERM this user has no permissions to run the 'ping' command\r\n" * 5
"""To each command of a client that connects."""
PLACES: dict[str, tuple[str, str, bytes | None]] = {
    "away": ("redis://127.0.0.1:{free}/0", "Nothing listens at {url}: look at host and port, or start", b""),
    "unknown-host": ("redis://no-such-host.invalid:6379/0", "The host in {url} is not known", b""),
    "no-password": ("redis://127.0.0.1:{guarded}/0", "The server at {url} wants a password", b""),
    "tls-to-a-plain-port": (
        "rediss://127.0.0.1:{guarded}/0",
        "speaks no TLS, as it seems: write redis://127",
        b"",
    ),
    "tls-to-http": ("rediss://127.0.0.1:{other}/0", "speaks no TLS, as it seems: write redis://127", HTTP),
    "http": ("redis://127.0.0.1:{other}/0", "What answers at {url} is no Redis or Valkey server", HTTP),
    "ssh": ("redis://127.0.0.1:{other}/0", "is no Redis or Valkey server", b"SSH-2.0-OpenSSH_9.9\r\n"),
    "closes": ("redis://127.0.0.1:{other}/0", "What listens at {url} ends the connection", b""),
    "loading": ("redis://127.0.0.1:{other}/0", "still loads its data: try again in a moment", LOADING),
    "no-permission": ("redis://127.0.0.1:{other}/0", "does not let this user in (this user", NO_PERMISSION),
    "silent": ("redis://127.0.0.1:{other}/0", "The server at {url} does not answer in time", None),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_server_of_no_use_is_one_sentence(
    guarded: int, listening: Callable[[bytes | None], int], tmp_path: Path, place: str
) -> None:
    url, sentence, answer = PLACES[place]
    url = url.format(free=free_port(), guarded=guarded, other=listening(answer))
    assert_said(url, sentence.format(url=url), tmp_path)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis://:wrong@127.0.0.1:{port}/0", "refuses this user or password"),
        ("redis://bob:secret@127.0.0.1:{port}/0", "at redis://bob@127.0.0.1:{port}/0 refuses this user"),
        ("redis://:secret@127.0.0.1:{port}/99", "refuses the connection: DB index is out of range. Look at"),
    ],
)
def test_a_server_that_refuses(guarded: int, tmp_path: Path, url: str, sentence: str) -> None:
    said = assert_said(url.format(port=guarded), sentence.format(port=guarded), tmp_path)
    assert "secret" not in said
    assert "wrong" not in said


def test_a_certificate_of_nobody(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=127.0.0.1",
        "-keyout",
    ]
    subprocess.run([openssl, *words, str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def shake_hands() -> None:
            client, _ = server.accept()
            with client:
                try:
                    context.wrap_socket(client, server_side=True)
                except OSError:
                    return

        threading.Thread(target=shake_hands, daemon=True).start()
        url = f"rediss://127.0.0.1:{server.getsockname()[1]}/0"
        assert_said(url, f"The certificate of the server at {url} cannot be verified", tmp_path)


def assert_said(url: str, sentence: str, folder: Path) -> str:
    """By a command that needs the server, with nothing but one line."""
    (folder / "photos").mkdir()
    (folder / "photos" / "a.png").write_bytes(b"")
    words = [
        "run",
        str(folder / "photos"),
        "--question",
        "What?",
        "--out",
        str(folder / "out"),
        "--redis",
        url,
    ]
    ran = run_command(*words)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert ran.stderr.startswith("captionmill: ")
    assert ran.stderr.count("\n") == 1
    assert sentence in ran.stderr
    assert not (folder / "out").exists()
    return ran.stderr


def test_a_server_without_memory_is_waited_for(tmp_path: Path) -> None:
    """From the first call on, though the server was asked once before."""
    process, url = start_server(tmp_path)
    # An event has a lock, which cannot be copied; redis-py copies what it has of each connection.
    check = threading.Event().clear
    with redis.Redis.from_url(url) as operator, connect(url, check) as connection:
        operator.config_set("maxmemory", 1)
        room = threading.Timer(0.5, operator.config_set, ("maxmemory", 0))
        room.start()
        assert connection.set("key", "value")
        room.join()
    process.kill()
    process.wait()
