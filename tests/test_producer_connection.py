"""The producer's connection: how it waits for a server that is away, and that it says so."""

import logging

import pytest

from producer.connection import CONNECT_TIMEOUT_S, RETRIES, TOLD_AFTER, Pauses


def test_a_wait_of_minutes_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    pauses = Pauses(lambda: None)
    with caplog.at_level(logging.WARNING, "producer.connection"):
        for failures in range(1, TOLD_AFTER):
            pauses.compute(failures)
        assert not caplog.records
        waited = sum(pauses.compute(failures) for failures in range(TOLD_AFTER, RETRIES + 1))
    assert len(caplog.records) == 1
    assert "five minutes" in caplog.text
    assert 240 < waited < (RETRIES + 1) * CONNECT_TIMEOUT_S


def test_what_is_checked_meanwhile_ends_the_wait() -> None:
    def check() -> None:
        raise RuntimeError("it is in vain")

    with pytest.raises(RuntimeError, match="in vain"):
        Pauses(check).compute(1)
