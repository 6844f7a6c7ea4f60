"""One way to the Redis server for everything the producer does; knows no key."""

import logging
from collections.abc import Callable

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import BusyLoadingError, OutOfMemoryError, ReadOnlyError
from redis.retry import Retry

SOCKET_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
RETRIES = 65
"""With growing pauses: an outage of about five minutes is waited out."""
TOLD_AFTER = 8
"""About ten seconds."""

log = logging.getLogger(__name__)


class Pauses(ExponentialWithJitterBackoff):
    """Between the tries of one call; once they are many, somebody is told what the wait is for."""

    def __init__(self, check: Callable[[], None]) -> None:
        """`check` is called before each pause, and may raise what ends the call."""
        super().__init__(cap=5.0, base=0.2)
        self._check = check

    def compute(self, failures: int) -> float:
        """Seconds before the next try, after so many failures."""
        self._check()
        if failures == TOLD_AFTER:
            log.warning("Redis does not answer, or takes nothing; it is asked again for about five minutes.")
        return super().compute(failures)


class ServerError(Exception):
    """There is no server to work with; the message says what to look at."""


def connect(url: str, check: Callable[[], None] = lambda: None) -> redis.Redis:
    """`url` as producer.settings gives it. Raises ServerError when nothing answers now.

    Later outages of up to about five minutes are waited out, with a warning in the log. `check` is called
    meanwhile, and ends the wait by what it raises.
    """
    connection: redis.Redis = redis.Redis.from_url(
        url, socket_timeout=SOCKET_TIMEOUT_S, socket_connect_timeout=CONNECT_TIMEOUT_S
    )
    try:
        connection.ping()
    except redis.RedisError as error:
        raise ServerError(f"Redis does not answer ({error}); is it running, and is --redis right?") from None
    connection.set_retry(Retry(Pauses(check), RETRIES))
    connection.connection_pool.connection_kwargs["retry_on_error"] = [
        BusyLoadingError,
        OutOfMemoryError,
        ReadOnlyError,
    ]
    return connection
