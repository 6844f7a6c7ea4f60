"""Connects the producer to the Redis server, and says why that fails; knows no key."""

import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
)
from redis.retry import Retry

from contract.redis_url import without_password
from producer.errors import ProducerError

SOCKET_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Patience:
    """How long a call waits for a server that is away."""

    retries: int
    first_s: float
    """Upper bound of the first pause; it doubles from one pause to the next."""
    longest_s: float


MINUTES: Final = Patience(65, first_s=0.4, longest_s=5.0)
"""Waits out an outage of about five minutes."""
SECONDS: Final = Patience(5, first_s=0.2, longest_s=1.0)
"""Gives up after about three seconds, for a person who watches."""
TOLD_AFTER = 8
"""Number of retries before the log says what the wait is for; about ten seconds."""

NAME_ONE: Final = (
    "`captionmill server` starts a server, --redis or CAPTIONMILL_REDIS_URL names it, and --model without "
    "either runs on this machine alone."
)

log = logging.getLogger(__name__)


class Pauses(ExponentialWithJitterBackoff):
    """Pauses between the tries of one call."""

    def __init__(self, patience: Patience, check: Callable[[], None] = lambda: None) -> None:
        """`check` is called before each pause, and may raise what ends the call."""
        super().__init__(cap=patience.longest_s, base=patience.first_s / 2)
        self._check = check

    def __deepcopy__(self, memo: object) -> Self:
        """The same object: redis-py copies it for each connection, and `check` may not be copyable."""
        return self

    def compute(self, failures: int) -> float:
        """Seconds before the next try, after `failures` of them."""
        self._check()
        if failures == TOLD_AFTER:
            log.warning("Redis does not answer or accepts no writes; retrying for about five minutes.")
        return super().compute(failures)


class ServerError(ProducerError):
    """No server can be used; the message says what to look at."""


def connect(url: str, check: Callable[[], None] = lambda: None, patience: Patience = MINUTES) -> redis.Redis:
    """A connection to `url`, which producer.settings gives. Raises ServerError if nothing answers now.

    Calls wait for the end of later outages as long as `patience` allows, and the log has a warning. `check`
    is called before each pause, and may end the wait by raising.
    """
    with redis.Redis.from_url(
        url,
        socket_timeout=CONNECT_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    ) as asked_once:
        try:
            asked_once.ping()
        except redis.RedisError as error:
            raise ServerError(trouble(url, error)) from None
    connection: redis.Redis = redis.Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(Pauses(patience, check), patience.retries),
        retry_on_error=[BusyLoadingError, OutOfMemoryError, ReadOnlyError],
    )
    return connection


def trouble(url: str, error: redis.RedisError) -> str:
    """Why the server at `url` cannot be used now, and what to do."""
    place, secret = without_password(url)
    causes = tuple(_causes(error))
    if isinstance(error, BusyLoadingError):
        return f"The server at {place} still loads its data: try again in a moment."
    if isinstance(error, AuthenticationError | AuthorizationError):
        if not secret:
            return (
                f"The server at {place} wants a password: write it into the URL, as redis://:PASSWORD@host, "
                "or set CAPTIONMILL_REDIS_PASSWORD_FILE to a file that holds it."
            )
        return (
            f"The server at {place} refuses this user or password: look at the URL of --redis or "
            "CAPTIONMILL_REDIS_URL, and at CAPTIONMILL_REDIS_PASSWORD_FILE."
        )
    if isinstance(error, NoPermissionError):
        return f"The server at {place} does not let this user in ({error}); docs/security.md has the rules."
    if isinstance(error, InvalidResponse):
        return f"What answers at {place} is no Redis or Valkey server: look at host and port. {NAME_ONE}"
    if isinstance(error, redis.ResponseError):
        return f"The server at {place} refuses the connection: {str(error).rstrip('.')}. Look at the URL."
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in causes):
        return (
            f"The certificate of the server at {place} cannot be verified: name its authority in the URL, as "
            "?ssl_ca_certs=FILE, or the host that the certificate is for."
        )
    if any(isinstance(one, socket.gaierror) for one in causes):
        return f"The host in {place} is not known: look at its name. {NAME_ONE}"
    if any(isinstance(one, ConnectionRefusedError) for one in causes):
        return f"Nothing listens at {place}: look at host and port, or start a server. {NAME_ONE}"
    if place.startswith("rediss://"):
        plain = place.replace("rediss://", "redis://", 1)
        return f"What answers at {place} speaks no TLS, as it seems: write {plain} for a server without it."
    if isinstance(error, redis.TimeoutError):
        return f"The server at {place} does not answer in time: look at host, port and firewall. {NAME_ONE}"
    return (
        f"What listens at {place} ends the connection without an answer: if it speaks TLS, write rediss:// "
        f"for redis://; else look at host and port. {NAME_ONE}"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
