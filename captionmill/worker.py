"""The command `worker`: a Celery worker with our pool, queue and flags; answers no job itself."""

import inspect
import json
import os
from typing import Annotated, Any, Final, Literal

import click
import typer
from pydantic.fields import FieldInfo

from captionmill.app import SITE, app
from captionmill.exits import EXIT_INTERRUPTED, refuse, sentences
from captionmill.model_cache import find_model
from captionmill.setting_options import (
    choices,
    default,
    described,
    groups,
    metavar,
    option,
    takes_several,
    what_if_unset,
)
from contract.broker import JOB_QUEUE
from worker.settings import variable

CONCURRENCY: Final = 8
FLAGS: Final = ("--pool", "threads", "--without-mingle", "--without-gossip", "--without-heartbeat")
"""Celery's options; docs/reliability.md gives the reasons."""
FIRST: Final = ("redis_url", "model_folder", "image_roots", "device", "cache_dir", "drain_s")
"""Settings on the short help page."""
TOLD: Final = {
    "model_folder": "Model folder, checkpoint folder, hub id, kept model's name or demo; a checkpoint is "
    "converted first."
}
"""Setting → help of its option, where that accepts more than the setting."""
METAVARS: Final = {"model_folder": "MODEL"}
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


def _as_variable(name: str, value: Any) -> str:
    """An option's value as a value of its setting's environment variable."""
    if isinstance(value, list):
        return (os.pathsep if name == "image_roots" else ",").join(value)
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _parameter(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    """A setting as an option, whose value is None if it was not given."""
    told, allowed = TOLD.get(name) or described(field), choices(field)
    said = default(field) or what_if_unset(field)
    if field.annotation is bool:
        kind: Any = bool | None
        said = None
    elif takes_several(field):
        kind, told = list[str] | None, f"{told} May be repeated."
    else:
        kind = Literal[allowed] | None if allowed else str | None
    shown = typer.Option(
        option(name),
        help=f"{told} Default: {said}." if said else told,
        show_default=False,
        rich_help_panel=panel,
        hidden=name not in FIRST,
        metavar=METAVARS.get(name)
        or "|".join(allowed)
        or ("" if field.annotation is bool else metavar(name, field)),
    )
    return _option(name, kind, shown, None)


def _option(name: str, kind: Any, shown: Any, value: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=Annotated[kind, shown]
    )


def _signature() -> inspect.Signature:
    """All settings and two options of Celery's, in the groups of docs/settings.md."""
    own = {
        "Speed and memory": _option(
            "concurrency",
            int,
            typer.Option(
                min=1,
                help=f"Jobs at once. Default: {CONCURRENCY}.",
                metavar="NUMBER",
                show_default=False,
                rich_help_panel="Speed and memory",
            ),
            CONCURRENCY,
        ),
        "Operation": _option(
            "log_level",
            LogLevel,
            typer.Option(
                help="Lowest level to log: DEBUG, INFO, WARNING or ERROR. Default: INFO.",
                metavar="LEVEL",
                show_default=False,
                rich_help_panel="Operation",
            ),
            "INFO",
        ),
    }
    parameters = []
    for title, settings in groups().items():
        if title in own:
            parameters.append(own[title])
        parameters += [_parameter(name, field, title) for name, field in settings.items()]
    return inspect.Signature(parameters)


def worker(**given: Any) -> None:
    """Start a worker, which takes jobs until Ctrl-C or SIGTERM.

    Then it finishes the jobs that it has begun; the others go back to the queue.

    Each setting can also be an environment variable; an option takes precedence.

    Exit code: 0 after a signal, 2 if the worker cannot start.
    """
    concurrency, log_level = given.pop("concurrency"), given.pop("log_level")
    typed = {name: value for name, value in given.items() if value is not None and value != []}
    with sentences():
        if "model_folder" in typed:
            typed["model_folder"] = find_model(typed["model_folder"])
    # Celery reads its configuration from the environment when it is first used.
    os.environ.update({variable(name): _as_variable(name, value) for name, value in typed.items()})
    from worker.app import app as celery_app
    from worker.app import name_options

    name_options({variable(name): option(name) for name in typed})
    command = ["worker", *FLAGS, "--queues", JOB_QUEUE]
    command += ["--concurrency", str(concurrency), "--loglevel", log_level]
    try:
        raise typer.Exit(celery_app.start(command) or 0)
    except (KeyboardInterrupt, click.Abort):  # while the model loads, before Celery handles signals
        refuse("Stopped before a job was taken.", EXIT_INTERRUPTED)


worker.__signature__ = _signature()  # type: ignore[attr-defined]
worker.__annotations__ = {name: one.annotation for name, one in _signature().parameters.items()}
app.command(rich_help_panel=SITE)(worker)
