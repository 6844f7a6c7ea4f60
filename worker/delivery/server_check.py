"""Checks the Redis server before the first job and refuses one that would lose jobs; knows no job.

Everything is read from INFO, as CONFIG is often not permitted.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import redis
from redis.exceptions import AuthenticationError, BusyLoadingError, ConnectionError, NoPermissionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from worker.errors import StartupError

log = logging.getLogger(__name__)

OLDEST: Final = (6, 2)
"""Oldest version (major, minor) that has XTRIM MINID; collectors trim with it."""
RETRY_PAUSE_S: Final = 2.0
TIMEOUT_S: Final = 5.0


class ServerRefusedError(StartupError):
    """Jobs are not safe with this server."""


def check_server(redis_url: str, *, require_durable: bool) -> None:
    """Wait for the server, and return if jobs are safe with it; lesser dangers are logged as warnings.

    Raises ServerRefusedError.
    """
    try:
        connection: redis.Redis = redis.Redis.from_url(
            redis_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        )
    except ValueError as error:
        raise ServerRefusedError(f"CAPTIONMILL_REDIS_URL is not a Redis URL: {error}.") from None
    with connection:
        info = _info(connection)
    if info is None:
        warning = "the server does not permit INFO, so jobs may not be safe with it; permit this user INFO"
        _warn_or_refuse(warning, refused=require_durable)
        return
    for complaint in complaints(info):
        raise ServerRefusedError(complaint)
    if not info.get("aof_enabled"):
        warning = "the server keeps no append-only file, so its crash loses every job; set appendonly yes"
        _warn_or_refuse(warning, refused=require_durable)


def _info(connection: redis.Redis) -> Mapping[str, Any] | None:
    """The sections of INFO that matter; None where the user may not ask. Waits while there is no server."""
    remedy = "; `captionmill server` starts one"
    while True:
        try:
            info: dict[str, Any] = {}
            for section in ("server", "memory", "persistence", "cluster"):
                info |= connection.info(section)
            return info
        except NoPermissionError:
            return None
        except AuthenticationError:
            raise ServerRefusedError(
                "The server refuses the user or the password in CAPTIONMILL_REDIS_URL."
            ) from None
        except (BusyLoadingError, ConnectionError, RedisTimeoutError) as away:
            place = connection.connection_pool.connection_kwargs
            log.warning(
                "the server at %s:%s is away (%s); again in %.0f s%s",
                *(place["host"], place["port"], type(away).__name__, RETRY_PAUSE_S, remedy),
            )
            remedy = ""
            time.sleep(RETRY_PAUSE_S)
        except redis.ResponseError as error:
            # Redis before 6 knows no users; -NOAUTH and -WRONGPASS of later ones are caught above.
            raise ServerRefusedError(f"The server does not answer as Redis does: {error}.") from None


def complaints(info: Mapping[str, Any]) -> list[str]:
    """Why a server with these fields of INFO must not hold jobs, a sentence each."""
    version = str(info.get("redis_version", "0"))
    found = []
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        found.append(f"The server is Redis {version}; use Redis {oldest} or newer, or any Valkey.")
    if info.get("cluster_enabled") or info.get("redis_mode") == "cluster":
        found.append("The server is in cluster mode, which cannot be the broker; start one without it.")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        found.append(
            f"The server's maxmemory-policy is {policy}, which throws jobs away when memory is short; "
            "set it to noeviction."
        )
    return found


def _warn_or_refuse(sentence: str, *, refused: bool) -> None:
    if refused:
        raise ServerRefusedError(
            f"{sentence[0].upper()}{sentence[1:]}, and CAPTIONMILL_REQUIRE_DURABLE_BROKER is set."
        )
    log.warning("%s", sentence)
