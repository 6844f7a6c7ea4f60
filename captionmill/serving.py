"""Finds who answers for one command: a server that is named, or a site of the command's own."""

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
    """A server, and whether all that this command started for it is well."""

    url: str
    check: Callable[[], None] = lambda: None
    """To be called between two rounds of a run. Raises SiteError."""
    own: bool = False
    """Whether this command has started the workers."""


def server_or_none(redis_url: str | None, local: LocalOptions) -> str | None:
    """The URL of the server that is named; None is local mode.

    Raises SiteError for options of local mode beside a server.
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
    """Refuse more workers than can share the cores, before anything is begun. Raises SiteError."""
    core_shares(*_wanted(local))


def _wanted(local: LocalOptions) -> tuple[int, tuple[str, ...]]:
    """Number of workers, and their devices."""
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
    """A server and workers as children of this command, ready to answer. Raises SiteError and ModelError.

    A model that is no model folder yet is converted first. `folder` keeps data and logs.
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
    """The same for a command that keeps nothing, such as one question."""
    with passing_folder(cache_folder()) as folder, own_site(folder, model, local, (), console) as site:
        yield site


def connected(site: Site) -> tuple[redis.Redis, Queue]:
    """Both ways to a server. Raises ServerError when nothing answers."""
    connection = connect(site.url, site.check)
    return connection, Queue(site.url, connection)
