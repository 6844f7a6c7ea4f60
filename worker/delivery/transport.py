"""Celery's transport for Redis; worker.delivery.envelope reads every message first; knows no jobs."""

from typing import Any

import redis
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

from worker.delivery.envelope import readable


class _ReadingClient(redis.Redis):
    """Takes messages from lists in the form that kombu can read."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        reply = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not reply:
            return reply
        key, raw = reply
        queue, *_priority = key.decode().rsplit(kombu_redis.Channel.sep, 1)
        return key, readable(raw, queue)


class _ReadingChannel(kombu_redis.Channel):  # type: ignore[misc]  # kombu has no types
    def _get_client(self) -> Any:
        super()._get_client()  # which refuses versions of redis-py that it cannot work with
        return _ReadingClient


class ReadingTransport(kombu_redis.Transport):  # type: ignore[misc]  # kombu has no types
    """kombu's transport, in which no bytes of a queue can raise."""

    Channel = _ReadingChannel


def install_transport() -> None:
    """Replace kombu's transport for Redis in this process, before anything connects.

    It is replaced by name: given otherwise, it would show in the URLs that connections log.
    """
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:{ReadingTransport.__name__}"))
