"""One rediss:// URL serves Celery, kombu and our own clients, and each of them verifies the certificate."""

import asyncio
import shutil
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import kombu
import pytest
import redis
from PIL import Image
from redis.backoff import NoBackoff
from redis.retry import Retry

from contract.redis_url import complete_url
from contract.store import WORKERS_KEY
from tests.support.command import run_command
from tests.support.guarded import CONFIG, Guarded, guarded_server
from tests.support.processes import start_worker, wait_until

TLS_SERVER = shutil.which("redis-server")
"""The embedded server has no TLS; a distribution's does, and takes the same configuration."""


@contextmanager
def terminating_proxy(to_port: int, tls: Path) -> Iterator[int]:
    """The port of a TLS server that hands everything on to `to_port` of the loopback."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls / "cert.pem", tls / "key.pem")
    loop = asyncio.new_event_loop()
    ports: list[int] = []
    started = threading.Event()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(65536):
                sink.write(piece)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", to_port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        ports.append(server.sockets[0].getsockname()[1])
        started.set()

    starting = loop.create_task(run())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    started.wait(10)
    yield ports[0]
    assert starting.done()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for 127.0.0.1, which is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=captionmill test"),
        *("-addext", "subjectAltName=IP:127.0.0.1"),
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    shutil.copy(folder / "cert.pem", folder / "ca.pem")
    return folder


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, tls: Path) -> Iterator[Guarded]:
    """A server with TLS as deploy/valkey starts it; if none is installed, the embedded one behind a proxy."""
    folder = tmp_path_factory.mktemp("secured")
    if TLS_SERVER is None:
        with guarded_server(folder) as server, terminating_proxy(server.port, tls) as port:
            yield replace(server, port=port, tls=f"?ssl_ca_certs={tls / 'ca.pem'}")
        return
    config = shutil.copytree(CONFIG, folder / "config")
    users = config / "users.acl"
    # Redis 7.0, as Debian 12 has it, knows no such command; clients go on without it.
    users.write_text(users.read_text().replace(" +client|setinfo", ""))
    with guarded_server(folder, Path(TLS_SERVER), tls, config) as server:
        yield server


def test_a_run_over_tls(secured: Guarded, images: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(images / "a.png")
    environment = {"CAPTIONMILL_MODEL_FOLDER": str(tmp_path), "CAPTIONMILL_IMAGE_ROOTS": str(images)}
    hold = {"HOLD": str(tmp_path / "hold")}
    log = tmp_path / "worker.log"
    worker = start_worker(
        "tests.support.fake_worker", log, {**secured.environment("worker"), **environment, **hold}
    )
    with secured.connect("monitor") as monitor:
        wait_until(lambda: worker.poll() is not None or monitor.hlen(WORKERS_KEY))
    run = ("run", str(images), "--question", "four", "--out", str(tmp_path / "o"))
    ran = run_command(*run, env=secured.environment("producer"))
    assert ran.returncode == 0, ran.stderr + log.read_text()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert "insecure" not in log.read_text()


def test_a_certificate_of_unknown_authority_is_refused(secured: Guarded) -> None:
    """Kombu verifies nothing for a bare rediss:// URL: contract.redis_url sees to it."""
    bare = complete_url(secured.whole_url("worker").partition("?")[0])
    with kombu.Connection(bare) as broker, pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
        broker.default_channel.client.ping()
    ours = redis.Redis.from_url(bare, retry=Retry(NoBackoff(), 0))
    with ours, pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        ours.ping()


def test_nothing_is_said_in_clear_to_a_tls_server(secured: Guarded) -> None:
    plain = redis.Redis.from_url(secured.whole_url("worker").partition("?")[0].replace("rediss", "redis"))
    with plain, pytest.raises(redis.RedisError):
        plain.ping()
