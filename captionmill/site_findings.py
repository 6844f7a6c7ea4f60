"""The doctor's checks of what a worker or run here would use: settings, server, workers, kept models."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import redis
from pydantic import ValidationError
from redis.exceptions import AuthenticationError, NoPermissionError

from captionmill.cache import cache_folder
from captionmill.exits import complaint_of_options
from captionmill.finding import Finding, note, ok, size, to_do
from contract.counting import counted
from contract.model_folder import LANGUAGE_XML
from producer.progress import duration
from producer.settings import named_server
from producer.sources import shown
from producer.top import connect_to_look
from producer.workers import live_workers
from worker.delivery.server_check import complaints
from worker.settings import is_set, look_at_settings

NEARLY_FULL: Final = 0.8
"""Share of the server's memory above which no more jobs are sent."""


def settings() -> Iterator[Finding]:
    made, wrong = look_at_settings()
    for complaint in wrong:
        yield to_do("variables", complaint, "change or unset it; docs/settings.md lists all")
    if not wrong:
        yield ok("variables", "all that begin with CAPTIONMILL_ are valid")
    if made is None:
        return
    if not is_set("image_roots"):
        yield ok(
            "image roots", f"none set; a worker that is started here reads images below {made.image_roots[0]}"
        )
        return
    for root in made.image_roots:
        if os.access(root, os.R_OK | os.X_OK):
            yield ok("image root", shown(root))
        else:
            yield to_do(
                "image root", f"{shown(root)} cannot be read", "let this user read it: chmod, or a group"
            )


def server(redis_url: str | None) -> Iterator[Finding]:
    """Check the named server and its workers."""
    try:
        url = named_server(redis_url)
    except ValidationError as invalid:
        yield to_do("server", complaint_of_options(invalid), "correct --redis or CAPTIONMILL_REDIS_URL")
        return
    if url is None:
        yield ok("server", "none named: `captionmill run` with --model starts its own server and workers")
        return
    with connect_to_look(url) as connection:
        place = _place(connection)
        try:
            told: dict[str, Any] = connection.info()
        except NoPermissionError:
            yield note("server", f"its user at {place} may not ask INFO, so it cannot be checked")
        except AuthenticationError:
            yield to_do(
                "server",
                f"{place} refuses the user or the password",
                "correct the URL, or the file that CAPTIONMILL_REDIS_PASSWORD_FILE names",
            )
            return
        except redis.RedisError as error:
            yield to_do(
                "server",
                f"{place} does not answer ({error})",
                "start it, such as by `captionmill server`, or correct --redis or CAPTIONMILL_REDIS_URL",
            )
            return
        else:
            yield from _server(place, told)
        yield from _workers(connection, without_password(url))


def _place(connection: redis.Redis) -> str:
    """Host and port, without user and password."""
    told = connection.connection_pool.connection_kwargs
    return f"{told['host']}:{told['port']}"


def without_password(url: str) -> str:
    """The URL for a line to paste, which gets its password from CAPTIONMILL_REDIS_PASSWORD_FILE."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username}@{place}" if parts.username else place).geturl()


def _server(place: str, told: Mapping[str, Any]) -> Iterator[Finding]:
    name = "Valkey" if "valkey_version" in told else "Redis"
    version = told.get("valkey_version") or told.get("redis_version")
    wrong = complaints(told)
    for complaint in wrong:
        yield to_do("server", complaint.rstrip("."), "change its configuration, or take another server")
    if not wrong:
        yield ok("server", f"{place}: {name} {version}, noeviction")
    if not told.get("aof_enabled"):
        yield to_do("persistence", "no append-only file, so a crash loses every job", "appendonly yes")
    elif told.get("aof_last_write_status", "ok") != "ok":
        yield to_do("persistence", "its append-only file cannot be written", "check whether its disk is full")
    else:
        yield ok("persistence", "append-only file")
    used, limit = int(told.get("used_memory", 0)), int(told.get("maxmemory", 0))
    if not limit:
        yield note("memory of the server", f"{size(used)}, no limit", "set maxmemory, such as 1gb")
    elif used > NEARLY_FULL * limit:
        yield to_do(
            "memory of the server",
            f"{size(used)} of {size(limit)}",
            "collect runs that are finished (`captionmill top` shows them), or raise maxmemory",
        )
    else:
        yield ok("memory of the server", f"{size(used)} of {size(limit)}")


def _workers(connection: redis.Redis, url: str) -> Iterator[Finding]:
    try:
        live = live_workers(connection)
    except NoPermissionError:
        yield note("workers", "the server's user may not ask for them")
        return
    if not live:
        yield to_do(
            "workers",
            "none is alive",
            f"captionmill worker --redis {url} --model MODEL --image-root FOLDER",
        )
    for one in live:
        roots = getattr(one, "image_roots", None)
        seen = f", images below {', '.join(map(str, roots))}" if roots else ""
        up = duration(one.time - one.started)
        yield ok(
            "worker",
            f"{one.worker}: {one.model} on {one.device}, {counted(one.slots, 'slot')}, up {up}{seen}",
        )
    if len({one.model for one in live}) > 1:
        yield note("models", "workers have different ones", "choose one for a run with --model")


def kept_models() -> Iterator[Finding]:
    folder = cache_folder() / "models"
    found = sorted(file.parent for file in folder.rglob(LANGUAGE_XML)) if folder.is_dir() else []
    if not found:
        yield ok("models kept", f"none in {folder}")
    for one in found:
        yield ok("model kept", f"{one}: {size(sum(file.stat().st_size for file in one.iterdir()))}")


def default_model() -> str | None:
    """The model folder of CAPTIONMILL_MODEL_FOLDER; None if it is not set."""
    made, _ = look_at_settings()
    return str(made.model_folder) if made is not None and is_set("model_folder") else None


def default_device() -> str:
    made, _ = look_at_settings()
    return "CPU" if made is None else made.device


def device_properties() -> dict[str, str]:
    made, _ = look_at_settings()
    return {} if made is None else dict(made.properties())
