"""Finds what answers a command: a named server, or the command's own server and workers; knows no run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from rich.console import Console

from captionmill.cache import cache_folder
from captionmill.kept_models import ModelError
from captionmill.local_site import LocalWorkers, SiteError, core_shares, local_site, passing_folder
from captionmill.model_cache import WANTED, find_model
from captionmill.options import LocalOptions
from captionmill.site_findings import default_device
from producer.connection import connect
from producer.queue import Queue
from producer.run_console import signals_as_flag
from producer.settings import named_server
from producer.sources import shown


@dataclass(frozen=True)
class Site:
    """A server to use, and a check of what this command started for it."""

    url: str
    check: Callable[[], None] = lambda: None
    """Called between two rounds of a run. Raises SiteError."""
    own: bool = False
    """Whether this command started server and workers."""


def server_or_none(redis_url: str | None, local: LocalOptions) -> str | None:
    """The URL of the named server; None for local mode.

    Raises SiteError if a server and options of local mode are given.
    """
    url = named_server(redis_url)
    if url is not None:
        for name in ("workers", "device"):
            if getattr(local, name):
                raise SiteError(
                    f"--{name} is for the workers that a command starts where no server is named; this one "
                    "uses the server of --redis or CAPTIONMILL_REDIS_URL and the workers there."
                )
    return url


def check_local(local: LocalOptions) -> None:
    """Raise SiteError early for more workers than cores."""
    core_shares(*_wanted(local))


def _wanted(local: LocalOptions) -> tuple[int, tuple[str, ...]]:
    """Number of workers, and their devices in turn."""
    devices = tuple(local.device or (default_device(),))
    return local.workers or len(devices), devices


@contextmanager
def own_site(
    folder: Path,
    model: str | None,
    local: LocalOptions,
    image_roots: Sequence[Path],
    console: Console,
) -> Iterator[Site]:
    """A server and workers as child processes, ready to answer. Raises SiteError and ModelError.

    A checkpoint is converted first. Data and logs are in `folder`.
    """
    if model is None:
        raise ModelError(WANTED)
    count, devices = _wanted(local)
    model_folder = find_model(model)
    workers = LocalWorkers(model_folder, tuple(image_roots) or (folder,), count, devices)
    console.print(
        f"No server is named, so this command runs its own, with {workers.described()} and "
        f"{shown(model_folder)} (logs: {shown(folder)}). For a server of yours: --redis URL."
    )
    with ExitStack() as stack:
        with console.status("Loading the model"), signals_as_flag() as stopped:
            site = stack.enter_context(local_site(folder, workers, stopped))
        yield Site(site.url, site.check, own=True)


@contextmanager
def passing_site(model: str | None, local: LocalOptions, console: Console) -> Iterator[Site]:
    """`own_site` in a temporary folder, for a command that keeps nothing."""
    with passing_folder(cache_folder()) as folder, own_site(folder, model, local, (), console) as site:
        yield site


def connected(site: Site) -> tuple[redis.Redis, Queue]:
    """A connection to the server's store, and its queue. Raises ServerError if it does not answer."""
    connection = connect(site.url, site.check)
    return connection, Queue(site.url, connection)
