"""The embedded Valkey server, started for real."""

import socket
from pathlib import Path

import pytest
import redis

from captionmill import embedded_server as embedded
from tests.support.processes import free_port


def test_a_port_that_another_program_takes_first_costs_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = int(other.getsockname()[1])
        found = iter([taken, taken, free_port()])
        monkeypatch.setattr(embedded, "free_port", lambda: next(found))
        with (
            embedded.embedded_server(tmp_path, password="of this test") as server,
            redis.Redis.from_url(server.url) as connection,
        ):
            assert connection.ping()
            assert str(taken) not in server.url


def test_a_port_that_was_asked_for_is_the_only_one_tried(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = int(other.getsockname()[1])
        with (
            pytest.raises(embedded.EmbeddedServerError) as refused,
            embedded.embedded_server(tmp_path, password=None, port=taken),
        ):
            pass
    assert embedded.PORT_TAKEN in refused.value.said
