"""Servers that would lose jobs are refused before the first job: real servers, each with another setting."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.processes import free_port, start_server, start_worker
from worker.delivery.server_check import ServerRefusedError, check_server, complaints


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server of this test's own, without an append-only file."""
    started, url = start_server(tmp_path)
    yield url
    started.kill()
    started.wait()


def test_a_server_without_append_only_file_is_told_of_or_refused(
    server: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_server(server, require_durable=False)
    assert "keeps no append-only file" in caplog.text
    with pytest.raises(ServerRefusedError, match=r"append-only file.*REQUIRE_DURABLE_BROKER"):
        check_server(server, require_durable=True)
    with redis.Redis.from_url(server) as connection:
        connection.config_set("appendonly", "yes")
    caplog.clear()
    check_server(server, require_durable=True)
    assert caplog.text == ""


def test_a_server_that_throws_keys_away_is_refused_by_a_worker_that_takes_no_job(
    server: str, tmp_path: Path
) -> None:
    with redis.Redis.from_url(server) as connection:
        connection.config_set("maxmemory-policy", "allkeys-lru")
        environment = {"CAPTIONMILL_REDIS_URL": f"{server}/0", "CAPTIONMILL_MODEL_FOLDER": str(tmp_path)}
        log = tmp_path / "worker.log"
        assert start_worker("worker", log, environment).wait(60) == 2
        assert "maxmemory-policy is allkeys-lru" in log.read_text()
        assert "Traceback" not in log.read_text()


def test_the_user_needs_no_config_and_no_info(server: str, caplog: pytest.LogCaptureFixture) -> None:
    with redis.Redis.from_url(server) as connection:
        connection.config_set("maxmemory-policy", "volatile-ttl")
        connection.execute_command("ACL", "SETUSER", "some", "on", ">pw", "~*", "+@all", "-config")
        connection.execute_command("ACL", "SETUSER", "few", "on", ">pw", "~*", "+@all", "-config", "-info")
    url = server.replace("redis://", "redis://{}:pw@")
    with pytest.raises(ServerRefusedError, match="volatile-ttl"):
        check_server(url.format("some"), require_durable=False)
    with caplog.at_level(logging.WARNING):
        check_server(url.format("few"), require_durable=False)
    assert "does not permit INFO" in caplog.text
    with pytest.raises(ServerRefusedError, match="does not permit INFO"):
        check_server(url.format("few"), require_durable=True)
    with pytest.raises(ServerRefusedError, match="refuses the user or the password") as refused:
        check_server(server.replace("redis://", "redis://some:geheim@"), require_durable=False)
    assert "geheim" not in str(refused.value)


def test_a_cluster_is_refused(tmp_path: Path) -> None:
    options = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
    cluster, url = start_server(tmp_path, options=options)
    try:
        with pytest.raises(ServerRefusedError, match="cluster mode"):
            check_server(url, require_durable=False)
    finally:
        cluster.kill()
        cluster.wait()


@pytest.mark.parametrize(("version", "refused"), [("6.0.16", True), ("6.2.0", False), ("10.0.1", False)])
def test_old_servers_are_refused(version: str, refused: bool) -> None:
    assert bool(complaints({"redis_version": version, "maxmemory_policy": "noeviction"})) == refused


def test_no_url_of_redis() -> None:
    with pytest.raises(ServerRefusedError, match="not a Redis URL"):
        check_server("http://:geheim@x", require_durable=False)
