"""Looks at the Redis server before a job is taken, and refuses one that would lose jobs; knows no job.

All is read from INFO: CONFIG is often not permitted.
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
"""XTRIM MINID, with which collectors trim, is as old as this."""
AGAIN_S: Final = 2.0
TIMEOUT_S: Final = 5.0


class ServerRefusedError(StartupError):
    """Jobs are not safe with this server."""


def check_server(redis_url: str, *, require_durable: bool) -> None:
    """Wait for the server, and return if it is fit; what only endangers jobs is logged as a warning.

    Raises ServerRefusedError.
    """
    try:
        connection: redis.Redis = redis.Redis.from_url(
            redis_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        )
    except ValueError as error:
        raise ServerRefusedError(f"CAPTIONMILL_REDIS_URL is no URL of Redis: {error}.") from None
    with connection:
        told = _info(connection)
    if told is None:
        warning = "the server does not permit INFO, so that nobody has checked whether jobs are safe with it"
        _endangered(warning, refused=require_durable)
        return
    for complaint in complaints(told):
        raise ServerRefusedError(complaint)
    if not told.get("aof_enabled"):
        warning = "the server keeps no append-only file, so that its crash loses every job it holds"
        _endangered(f"{warning}; set appendonly yes", refused=require_durable)


def _info(connection: redis.Redis) -> Mapping[str, Any] | None:
    """Sections that matter, as one; None where the user may not ask. Waits while there is no server."""
    remedy = "; `captionmill server` starts one"
    while True:
        try:
            told: dict[str, Any] = {}
            for section in ("server", "memory", "persistence", "cluster"):
                told |= connection.info(section)
            return told
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
                *(place["host"], place["port"], type(away).__name__, AGAIN_S, remedy),
            )
            remedy = ""
            time.sleep(AGAIN_S)
        except redis.ResponseError as error:
            # Redis before 6 knows no users; -NOAUTH and -WRONGPASS of others are caught above.
            raise ServerRefusedError(f"The server does not answer as one should: {error}.") from None


def complaints(told: Mapping[str, Any]) -> list[str]:
    """Why a server that tells this of itself in INFO must not hold jobs, a sentence each."""
    version = str(told.get("redis_version", "0"))
    found = []
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        found.append(f"The server is Redis {version}; {oldest} or newer is needed, or any Valkey.")
    if told.get("cluster_enabled") or told.get("redis_mode") == "cluster":
        found.append("The server is in cluster mode, which cannot be the broker; start one without it.")
    policy = told.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        found.append(
            f"The server's maxmemory-policy is {policy}, which throws jobs away when memory is short; "
            "set it to noeviction."
        )
    return found


def _endangered(sentence: str, *, refused: bool) -> None:
    if refused:
        raise ServerRefusedError(
            f"{sentence[0].upper()}{sentence[1:]}, and CAPTIONMILL_REQUIRE_DURABLE_BROKER is set."
        )
    log.warning("%s", sentence)
