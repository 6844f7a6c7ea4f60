"""The command that starts a worker: the Celery worker with our pool, queue and flags."""

import inspect
import json
import os
from types import UnionType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from captionmill.app import SITE, app
from captionmill.exits import sentences
from captionmill.model_cache import find_model
from contract.broker import JOB_QUEUE
from worker.settings import PREFIX, Settings

CONCURRENCY: Final = 8
FLAGS: Final = ("--pool", "threads", "--without-mingle", "--without-gossip", "--without-heartbeat")
"""docs/reliability.md has the reasons."""
NAMES: Final = {"redis_url": "--redis", "model_folder": "--model", "image_roots": "--image-root"}
"""Options that are not named as their setting is."""
FIRST: Final = ("redis_url", "model_folder", "image_roots", "device")
"""The settings that most workers need."""
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


def _as_variable(name: str, value: Any) -> str:
    """An option's value as the environment variable of its setting holds it."""
    if isinstance(value, list):
        return (os.pathsep if name == "image_roots" else ",").join(value)
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """A setting as an option. None is an option that was not given."""
    choices = _choices(field.annotation)
    flag = NAMES.get(name, f"--{name.replace('_', '-')}")
    told = field.description or ""
    default = field.get_default(call_default_factory=False)
    if field.annotation is bool:
        kind: Any = bool | None
    elif get_origin(field.annotation) is tuple:
        kind, told = list[str] | None, f"{told}; may be repeated"
    else:
        kind = Literal[choices] | None if choices else str | None
    known = default not in (None, PydanticUndefined, (), {})
    option = typer.Option(
        flag,
        help=f"{told[:1].upper()}{told[1:]}.",
        show_default=_shown(default) if known else False,
        rich_help_panel="What it needs" if name in FIRST else "Further settings",
        metavar=None if choices or field.annotation is bool else _metavar(field),
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )


def _choices(annotation: Any) -> tuple[str, ...]:
    """The values of a Literal, optional or not."""
    if isinstance(annotation, UnionType):
        annotation = get_args(annotation)[0]
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _metavar(field: FieldInfo) -> str:
    """What stands for the value on the help page."""
    text = str(field.annotation)
    for word, metavar in (("float", "NUMBER"), ("int", "N"), ("Path", "PATH"), ("dict", "JSON")):
        if word in text:
            return metavar
    return "TEXT"


def _shown(default: Any) -> str:
    value = default.get_secret_value() if hasattr(default, "get_secret_value") else default
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _signature() -> inspect.Signature:
    fields = Settings.model_fields
    names = [*FIRST, *(name for name in fields if name not in FIRST)]
    own = [
        inspect.Parameter(
            "concurrency",
            inspect.Parameter.KEYWORD_ONLY,
            default=CONCURRENCY,
            annotation=Annotated[
                int,
                typer.Option(min=1, help="Jobs taken at once.", rich_help_panel="What it needs"),
            ],
        ),
        inspect.Parameter(
            "log_level",
            inspect.Parameter.KEYWORD_ONLY,
            default="INFO",
            annotation=Annotated[
                LogLevel, typer.Option(help="Least level logged.", rich_help_panel="Further settings")
            ],
        ),
    ]
    return inspect.Signature(
        [
            *(_parameter(name, fields[name]) for name in names[: len(FIRST)]),
            *own,
            *(_parameter(name, fields[name]) for name in names[len(FIRST) :]),
        ]
    )


def worker(**given: Any) -> None:
    """Start a worker here: it takes jobs until Ctrl-C or SIGTERM, and finishes what it has begun.

    Every option is a setting that an environment variable can give, too; docs/settings.md lists them.
    """
    concurrency, log_level = given.pop("concurrency"), given.pop("log_level")
    with sentences():
        if given["model_folder"] is not None:
            given["model_folder"] = str(find_model(given["model_folder"]))
    # Celery reads its configuration when it first needs it, and a process has one environment.
    os.environ.update(
        {PREFIX + name.upper(): _as_variable(name, value) for name, value in given.items() if value}
    )
    from worker.app import app as celery_app

    command = ["worker", *FLAGS, "--queues", JOB_QUEUE]
    raise typer.Exit(
        celery_app.start([*command, "--concurrency", str(concurrency), "--loglevel", log_level]) or 0
    )


worker.__signature__ = _signature()  # type: ignore[attr-defined]
worker.__annotations__ = {name: one.annotation for name, one in _signature().parameters.items()}
app.command(rich_help_panel=SITE)(worker)
