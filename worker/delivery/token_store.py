"""Keeps streams of answers in the result store, for readers that follow them; knows no generation."""

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
    """Text of a stream, and whether it has ended."""

    text: str
    ended: bool


@dataclass(frozen=True)
class Increment:
    """What is appended to a job's stream next: a text, which may be empty, and whether the stream ends."""

    run: str
    index: int
    text: str
    ends: bool


class TokenStore:
    """Used by one thread.

    Every call may raise StoreAwayError. None is tried again: a second try could publish a text twice.
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
        """What this worker or an earlier one has published of a job."""
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
        """Append them to their streams, all or none → for each job, whether it is asked to stop."""
        try:
            with self._redis.pipeline(transaction=True) as commands:
                for increment in increments:
                    self._add(commands, increment)
                for increment in increments:
                    commands.exists(stop_key(increment.run, increment.index))
                replies: list[Any] = commands.execute(raise_on_error=False)
                # A key of another type has no reader; the other streams have theirs.
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
