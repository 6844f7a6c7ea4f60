"""One way to the Redis server for everything the producer does; knows no key."""

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import BusyLoadingError, OutOfMemoryError, ReadOnlyError
from redis.retry import Retry

SOCKET_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
RETRIES = 15
"""With growing pauses: an outage of about a minute is waited out."""


class ServerError(Exception):
    """There is no server to work with; the message says what to look at."""


def connect(url: str) -> redis.Redis:
    """`url` as producer.settings gives it. Raises ServerError when nothing answers now.

    Later outages are waited out.
    """
    connection: redis.Redis = redis.Redis.from_url(
        url, socket_timeout=SOCKET_TIMEOUT_S, socket_connect_timeout=CONNECT_TIMEOUT_S
    )
    try:
        connection.ping()
    except redis.RedisError as error:
        raise ServerError(f"Redis does not answer ({error}); is it running, and is --redis right?") from None
    connection.set_retry(Retry(ExponentialWithJitterBackoff(cap=5.0, base=0.2), RETRIES))
    connection.connection_pool.connection_kwargs["retry_on_error"] = [
        BusyLoadingError,
        OutOfMemoryError,
        ReadOnlyError,
    ]
    return connection
