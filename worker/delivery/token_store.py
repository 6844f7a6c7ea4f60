"""Keeps the streams of answers that somebody reads along, in the result store; knows no generation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from contract.store import END_FIELD, TOKENS_FIELD, TOKENS_KEPT_S, stop_key, tokens_key
from worker.delivery.results import is_wrong_type
from worker.errors import StoreAwayError

TIMEOUT_S: Final = 5.0


@dataclass(frozen=True)
class Published:
    """What a stream holds."""

    text: str
    ended: bool


@dataclass(frozen=True)
class Increment:
    """What a stream gets next, which may be nothing; and where it is, as whoever asks for it knows."""

    run: str
    index: int
    text: str
    ends: bool


class TokenStore:
    """Used by one thread.

    Every call may raise StoreAwayError and is not tried again: a second try could publish a text twice.
    """

    def __init__(self, redis_url: str) -> None:
        self._redis: redis.Redis = redis.Redis.from_url(
            redis_url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            socket_keepalive=True,
            health_check_interval=10,
            retry=Retry(NoBackoff(), 0),
        )

    def published(self, run: str, index: int) -> Published:
        """What this worker or one before it has published of a job."""
        try:
            entries = cast(Any, self._redis.xrange(tokens_key(run, index)))
        except redis.RedisError as error:
            if is_wrong_type(error):
                return Published("", True)
            raise StoreAwayError(type(error).__name__) from error
        text, end = TOKENS_FIELD.encode(), END_FIELD.encode()
        return Published(
            b"".join(fields.get(text, b"") for _, fields in entries).decode(),
            any(end in fields for _, fields in entries),
        )

    def publish(self, increments: Sequence[Increment]) -> list[bool]:
        """Add them to their streams, all or none → whether each of the jobs is asked to stop."""
        try:
            with self._redis.pipeline(transaction=True) as commands:
                for increment in increments:
                    self._add(commands, increment)
                for increment in increments:
                    commands.exists(stop_key(increment.run, increment.index))
                replies: list[Any] = commands.execute(raise_on_error=False)
                # Nobody reads along at a key that is no stream, and others do at theirs.
                for reply in replies:
                    if isinstance(reply, redis.RedisError) and not is_wrong_type(reply):
                        raise reply
        except redis.RedisError as error:
            raise StoreAwayError(type(error).__name__) from error
        return [bool(reply) for reply in replies[-len(increments) :]]

    def close(self) -> None:
        self._redis.close()
        self._redis.connection_pool.disconnect()

    def _add(self, commands: Any, increment: Increment) -> None:
        key = tokens_key(increment.run, increment.index)
        if increment.text:
            commands.xadd(key, {TOKENS_FIELD: increment.text})
        if increment.ends:
            commands.xadd(key, {END_FIELD: ""})
        if increment.text or increment.ends:
            commands.expire(key, TOKENS_KEPT_S)
