"""After a server has lost its last writes, a worker releases the jobs that only the store says it holds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from contract.store import attempts_key, holders_key
from tests.faults.server import Server
from worker.delivery.held_jobs import HeldJobs
from worker.delivery.results import ResultStore

RUN = "run"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = Server(tmp_path / "server")
    started.start()
    yield started
    started.stop()


def started_anew(server: Server) -> None:
    server.connection.config_set("appendfsync", "always")
    server.kill()
    server.start()


def test_what_is_not_here_is_let_go_after_the_server_has_started_anew(server: Server) -> None:
    store = ResultStore(server.url)
    held = HeldJobs(store, "this")
    for index in (1, 2):
        assert store.begin("this", RUN, index, 1).attempt == 1
    assert store.begin("other", RUN, 3, 1).attempt == 1
    server.connection.hset(holders_key(RUN), "no number", "this")
    server.connection.set(holders_key("hostile"), "no hash")
    with held.holding([(RUN, 1), ("hostile", 1)]):
        pass
    with held.holding([(RUN, 2)]):
        for _ in range(3):
            held.reconcile()
        assert store.held_by("this", RUN) == [1, 2]
        started_anew(server)
        held.reconcile()
        assert store.held_by("this", RUN) == [1, 2]
        held.reconcile()
    assert store.held_by("this", RUN) == [2]
    assert store.held_by("other", RUN) == [3]
    attempts = server.connection.hgetall(attempts_key(RUN))
    assert attempts == {b"2": b"1", b"3": b"1"}
    # It is not compared for ever.
    held.reconcile()
    assert store.held_by("this", RUN) == [2]
    store.close()


def test_a_job_that_is_noted_before_it_is_here_is_kept(server: Server) -> None:
    store = ResultStore(server.url)
    held = HeldJobs(store, "this")
    with held.holding([(RUN, 0)]):
        held.reconcile()
        started_anew(server)
        assert store.begin("this", RUN, 1, 1).attempt == 1
        held.reconcile()
        with held.holding([(RUN, 1)]):
            held.reconcile()
    assert store.held_by("this", RUN) == [1]
    store.close()


def test_who_may_not_ask_which_process_the_server_is_compares_nothing(server: Server) -> None:
    server.connection.execute_command("ACL", "SETUSER", "few", "on", ">pw", "~*", "+@all", "-info")
    store = ResultStore(server.url.replace("redis://", "redis://few:pw@"))
    assert store.server_id() is None
    held = HeldJobs(store, "this")
    held.reconcile()
    started_anew(server)
    server.connection.execute_command("ACL", "SETUSER", "few", "on", ">pw", "~*", "+@all", "-info")
    held.reconcile()
    store.close()


def test_a_server_that_is_away_is_compared_later(server: Server) -> None:
    store = ResultStore(server.url, retries=0)
    held = HeldJobs(store, "this")
    held.reconcile()
    assert store.begin("this", RUN, 1, 1).attempt == 1
    with held.holding([(RUN, 1)]):
        pass
    server.connection.config_set("appendfsync", "always")
    server.kill()
    held.reconcile()
    server.start()
    with redis.Redis.from_url(server.url) as connection:
        assert connection.hlen(holders_key(RUN)) == 1
        held.reconcile()
        held.reconcile()
        assert connection.hlen(holders_key(RUN)) == 0
    store.close()
