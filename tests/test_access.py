"""The server's users may do what the system needs and no more; passwords are shown nowhere."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import kombu
import pytest
import redis
from PIL import Image
from redis.backoff import NoBackoff
from redis.retry import Retry

from contract.broker import JOB_QUEUE, TRANSPORT_OPTIONS
from contract.store import WORKERS_KEY, begin_keys, record_keys
from tests.support.command import run_command
from tests.support.guarded import Guarded, guarded_server
from tests.support.processes import ROOT, spawn, start_worker, wait_until

USERS = ("worker", "producer", "monitor", "scaler", "admin")
KEDA_SCRIPT = """
local listName = KEYS[1]
local listType = redis.call('type', listName).ok
local cmd = { zset = 'zcard', set = 'scard', list = 'llen', hash = 'hlen', none = 'llen' }
return redis.call(cmd[listType], listName)
"""
"""As KEDA's scaler for lists asks."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_server(tmp_path_factory.mktemp("guarded")) as server:
        yield server


@pytest.fixture
def site(guarded: Guarded, images: Path, tmp_path: Path) -> "Site":
    return Site(guarded, images, tmp_path)


class Site:
    """The real worker on a fake model, and the real producer, each under its own user."""

    def __init__(self, guarded: Guarded, images: Path, folder: Path) -> None:
        for number in range(6):
            Image.new("RGB", (30 + number, 20)).save(images / f"{number}.png")
        self.guarded = guarded
        self.images = images
        self.folder = folder
        self.hold = folder / "hold"
        self.log = folder / "worker.log"
        self.out = folder / "out"
        guarded.forget_denials()

    def start_worker(self) -> subprocess.Popen[bytes]:
        environment = {
            **self.guarded.environment("worker"),
            "CAPTIONMILL_MODEL_FOLDER": str(self.folder),
            "CAPTIONMILL_IMAGE_ROOTS": str(self.images),
            "HOLD": str(self.hold),
        }
        return start_worker("tests.support.fake_worker", self.log, environment)

    def captionmill(self, *arguments: object, user: str = "producer") -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if "CAPTIONMILL" not in name}
        return run_command(*map(str, arguments), env={**inherited, **self.guarded.environment(user)})

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def test_a_worker_and_a_producer_need_nothing_else(site: Site) -> None:
    """A run that is interrupted by a restart, one whose images travel, a question, and one cancelled."""
    worker = site.start_worker()
    everything = (site.images, "--question", "four", "--json", "--out")
    log = site.folder / "producer.log"
    site.hold.touch()
    held = spawn(
        [sys.executable, "-m", "captionmill", "run", *map(str, everything), str(site.out)],
        log,
        site.guarded.environment("producer"),
    )
    with site.guarded.connect("monitor") as monitor:

        def begun() -> bool:
            assert held.poll() is None, log.read_text()
            assert worker.poll() is None, site.log_text()
            return bool(monitor.hlen("unacked") and monitor.llen(JOB_QUEUE))

        wait_until(begun)
    worker.send_signal(signal.SIGTERM)  # what is not begun goes back
    time.sleep(0.2)
    site.hold.unlink()
    assert worker.wait(60) == 0
    worker = site.start_worker()
    assert held.wait(60) == 0, log.read_text() + site.log_text()
    shipped = site.captionmill("run", *everything, site.folder / "shipped", "--ship")
    assert shipped.returncode == 0, shipped.stderr
    asked = site.captionmill("ask", site.images / "0.png", "four")
    assert asked.returncode == 0, asked.stderr
    assert "tokens" in asked.stdout
    cancelled = site.captionmill("cancel", site.out)
    assert cancelled.returncode == 0, cancelled.stderr
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert site.guarded.denials() == []


def test_a_worker_gives_back_what_a_dead_one_took(guarded: Guarded) -> None:
    """Kombu's own code for it, which otherwise runs long after the death."""
    guarded.forget_denials()
    with kombu.Connection(guarded.whole_url("producer")) as sending, sending.Producer() as producer:
        producer.publish("lost", routing_key=JOB_QUEUE)
    options = {**TRANSPORT_OPTIONS, "visibility_timeout": 0}
    with kombu.Connection(guarded.whole_url("worker"), transport_options=options) as broker:
        channel = broker.channel()
        queue = kombu.Queue(JOB_QUEUE, kombu.Exchange(JOB_QUEUE), JOB_QUEUE)(channel)
        queue.declare()
        assert queue.get() is not None
        assert queue.get() is None
        channel.qos.restore_visible(interval=1)
        again = queue.get()
        assert again.payload == "lost"
        again.ack()
    with guarded.connect("monitor") as monitor:
        assert monitor.hlen("unacked") == 0
    assert guarded.denials() == []


NEEDED = {
    "worker": f"""
        HSETNX captionmill:{{r}}:holders 1 w | HGET captionmill:workers w | HSET captionmill:workers w r
        HDEL captionmill:workers w | RPUSH captionmill:dead_letters x | EXISTS captionmill:{{r}}:stop:1
        GETRANGE captionmill:{{r}}:image:0 0 9 | LPUSH captionmill.suspect m | BRPOP captionmill.suspect 1
        BRPOP captionmill.jobs captionmill.jobs\x06\x163 1 | XRANGE captionmill:{{r}}:tokens:1 - +
        EVALSHA 0 {len(record_keys("r"))} {" ".join(record_keys("r"))} | INFO persistence
        EVALSHA 0 {len(begin_keys("r"))} {" ".join(begin_keys("r"))}
    """,
    "producer": """
        SETBIT captionmill:{r}:done 1 0 | STRLEN captionmill:{r}:image:0 | LLEN captionmill.suspect
        HGETALL captionmill:{r}:holders | SET captionmill:{r}:stop:1 1 | LLEN captionmill.interactive
        XGROUP CREATE captionmill:{r}:results none $ MKSTREAM | PERSIST captionmill:{r}:done
    """,
    "monitor": """
        EXISTS captionmill:{r}:results | XLEN captionmill:{r}:results | LLEN captionmill:dead_letters
    """,
}
"""What a run reaches only after deaths and restored copies."""


@pytest.mark.parametrize("user", NEEDED)
def test_may_do_what_is_seldom_needed(guarded: Guarded, user: str) -> None:
    with guarded.connect("admin") as admin:
        for command in commands(NEEDED[user]):
            assert admin.execute_command("ACL DRYRUN", user, *command) == "OK", command
            assert admin.execute_command("ACL DRYRUN", "scaler", *command) != "OK"


FORBIDDEN = {
    "worker": """
        CONFIG GET * | FLUSHALL | FLUSHDB ASYNC | KEYS * | SCAN 0 | ACL LIST | MONITOR | SHUTDOWN | SAVE
        DEBUG SLEEP 0 | CLIENT LIST | CLIENT KILL TYPE normal | REPLICAOF NO ONE | SWAPDB 0 1 | SCRIPT FLUSH
        FUNCTION LIST | MODULE LIST | PUBLISH channel text | SUBSCRIBE channel
        GET secret | SET secret 1 | DEL secret | LPUSH celery 1
        XRANGE captionmill:{r}:results - + | DEL captionmill:{r}:image:0 | SET captionmill:{r}:image:0 1
        SET captionmill:{r}:stop:0 1 | LRANGE captionmill:dead_letters 0 -1
    """,
    "producer": """
        CONFIG SET dir /tmp | FLUSHALL | FLUSHDB | KEYS * | ACL LIST | MONITOR | SHUTDOWN | EVAL x 0
        BRPOP captionmill.jobs 1 | RPOP captionmill.jobs | LRANGE captionmill.jobs 0 -1
        LPUSH captionmill.suspect 1 | DEL unacked | HDEL unacked 1 | XADD captionmill:{r}:results * a b
        GET secret | SET secret 1 | HSET captionmill:workers a b | DEL captionmill:dead_letters
    """,
    "monitor": """
        CONFIG GET * | FLUSHALL | KEYS * | ACL LIST | MONITOR | GET captionmill:{r}:cancelled | HGET secret a
        LPUSH captionmill.jobs 1 | LRANGE captionmill.jobs 0 -1 | DEL captionmill:workers
        SET captionmill:{r}:done 1 | XRANGE captionmill:{r}:results - + | GETRANGE captionmill:{r}:image:0 0 1
    """,
    "scaler": """
        INFO | LLEN captionmill.interactive | LRANGE captionmill.jobs 0 -1 | DEL captionmill.jobs
    """,
}


def commands(table: str) -> list[list[str]]:
    return [one.strip().split(" ") for line in table.strip().splitlines() for one in line.split(" | ")]


@pytest.mark.parametrize("user", FORBIDDEN)
def test_and_may_not(guarded: Guarded, user: str) -> None:
    with guarded.connect("admin") as admin:
        admin.set("secret", "kept")
    with guarded.connect(user) as connection:
        for command in commands(FORBIDDEN[user]):
            with pytest.raises(redis.ResponseError, match=r"permission|not allowed"):
                connection.execute_command(*command)
    with guarded.connect("admin") as admin:
        assert admin.get("secret") == "kept"
    guarded.forget_denials()


@pytest.mark.parametrize(
    "command", ["'FLUSHALL'", "'GET', 'secret'", "'CONFIG', 'GET', 'dir'", "'KEYS', '*'"]
)
@pytest.mark.parametrize("user", ["worker", "scaler"])
def test_nor_by_a_script(guarded: Guarded, user: str, command: str) -> None:
    with guarded.connect(user) as connection:
        with pytest.raises(redis.ResponseError, match=r"ACL failure|permission|not allowed"):
            connection.eval(f"return redis.call({command})", 0)
        with pytest.raises(redis.ResponseError, match="permission"):
            connection.eval("return 1", 1, "secret")
    guarded.forget_denials()


def test_nobody_else_comes_in(guarded: Guarded) -> None:
    attempts = ((None, None), ("default", ""), ("worker", "wrong"), ("worker", guarded.password("admin")))
    for user, password in attempts:
        with (
            pytest.raises(redis.AuthenticationError),
            redis.Redis(
                port=guarded.port, username=user, password=password, retry=Retry(NoBackoff(), 0)
            ) as one,
        ):
            one.get(WORKERS_KEY)


def test_whoever_looks_and_scales_can(guarded: Guarded) -> None:
    guarded.forget_denials()
    with guarded.connect("monitor") as monitor:
        assert monitor.info("memory")["maxmemory"] == 200 * 2**20
        monitor.hgetall(WORKERS_KEY)
    with guarded.connect("scaler") as scaler:
        assert scaler.eval(KEDA_SCRIPT, 1, JOB_QUEUE) == scaler.llen(JOB_QUEUE) == 0
    assert guarded.denials() == []


def test_the_server_keeps_jobs_as_promised(guarded: Guarded) -> None:
    wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": ""}
    with guarded.connect("admin") as admin:
        assert {name: admin.config_get(name)[name] for name in wanted} == wanted


def test_a_weak_password_does_not_start(tmp_path: Path) -> None:
    subprocess.run(["sh", "deploy/secrets.sh", str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    weak = tmp_path / "producer_password"
    weak.unlink()
    weak.write_text("short\n")
    environment = {**os.environ, "SECRETS": str(tmp_path), "CONFIG": "deploy/valkey", "RUN": str(tmp_path)}
    started = subprocess.run(
        ["sh", "deploy/valkey/start.sh"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 1
    assert "producer_password must hold a password of at least 16 characters" in started.stderr


def test_passwords_are_shown_nowhere(site: Site) -> None:
    """Not in logs, errors, the server's files or the list of processes, also when the password is wrong."""
    worker = site.start_worker()
    with site.guarded.connect("monitor") as monitor:
        wait_until(lambda: monitor.hlen(WORKERS_KEY))
    command_lines = [
        path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)
    ]
    ran = site.captionmill("run", site.images, "--question", "four", "--out", site.out)
    assert ran.returncode == 0, ran.stderr
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    wrong = site.captionmill("status", site.out, user="nobody")
    refused = site.captionmill(
        "run", site.images, "--question", "four", "--out", site.folder / "other", "--redis",
        f"redis://producer:{site.guarded.password('worker')}@127.0.0.1:{site.guarded.port}",
    )  # fmt: skip
    assert refused.returncode == 2
    shown = [site.log_text(), ran.stdout, ran.stderr, refused.stdout, refused.stderr, wrong.stderr]
    kept = [path.read_bytes() for path in [site.guarded.log, *site.out.rglob("*")] if path.is_file()]
    for user in USERS:
        password = site.guarded.password(user)
        assert not [text for text in shown if password in text]
        assert not [one for one in (*kept, *command_lines) if password.encode() in one]
    site.guarded.forget_denials()
