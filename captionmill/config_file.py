"""A run's options in a TOML file: read for --config, written by --write-config.

A key is an option's name with underscores. Keys and types of values come from the options of
`captionmill run`; only the options below are known by name.
"""

import difflib
import os
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args, get_origin
from urllib.parse import urlsplit

import tomlkit
import typer
from tomlkit.items import Item
from typer.core import TyperOption
from typer.exceptions import TyperException

from captionmill.errors import CaptionmillError
from captionmill.help_page import PanelledCommand
from producer.questions import PROMPT_KEYS, read_prompt
from producer.sources import SourceError, shown
from producer.sources.parameters import GROUP, PARAMETER_COLUMNS

WRITE: Final = "--write-config"
DEFAULT: Final = Path("captionmill.toml")
OWNER: Final = "run"
"""The command whose options are the keys; other commands ignore keys that they have no option for."""
SUFFIX: Final = ".toml"
ONLY_TYPED: Final = ("add", "resume", "dry_run", "config", "write_config")
"""Options of `run` for one command only, which cannot be in a file."""
COMMENT_WIDTH: Final = 98
"""Characters of a comment line."""
TABLES: Final = "questions"
"""The key that may hold tables, [[questions]], instead of a file name."""
TABLE_KEYS: Final = (*PROMPT_KEYS, *(name for name in PARAMETER_COLUMNS if name != "detail"), GROUP)
ASKED: Final = ("question", "questions", "choice")
"""Keys of what is asked; any of them on the command line replaces all of them in the file."""
Place = tuple[str | int, ...]
"""The place of a value in the file: keys, and indices into lists."""


class ConfigError(CaptionmillError, TyperException):
    """The file cannot be read or written; the message says where and why."""

    exit_code = 2


def key_of(param: Any) -> str:
    """The key of an option or an argument."""
    return typed_name(param).removeprefix("--").replace("-", "_")


def typed_name(param: Any) -> str:
    """Its name on the command line."""
    return str(param.opts[0] if isinstance(param, TyperOption) else param.name)


def keys(command: Any) -> dict[str, Any]:
    """Key → parameter, for everything that may be in a file."""
    found = {key_of(param): param for param in command.params}
    return {key: param for key, param in found.items() if key not in ONLY_TYPED}


class ConfigurableCommand(PanelledCommand):
    """A command whose --write-config needs no file name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for place, word in enumerate(args):
            named = "".join(args[place + 1 : place + 2]).endswith(SUFFIX)
            if word == WRITE and not named:
                args = [*args[: place + 1], str(DEFAULT), *args[place + 1 :]]
                break
        return super().parse_args(ctx, args)


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of --config: the file's values become defaults of the options. Raises ConfigError."""
    if path is not None and not context.resilient_parsing:
        context.default_map = _File(path, context).values()
    return path


def replaces_what_is_asked(context: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """Callback of options that ask: on the command line, they replace all that the file asks."""
    if _given(context, str(param.name)) == "COMMANDLINE" and context.default_map:
        for key in ASKED:
            context.default_map.pop(key, None)
    return value


def given(context: typer.Context) -> list[Any]:
    """The parameters given on the command line or in the file, in the command's order."""
    sources = ("COMMANDLINE", "DEFAULT_MAP")
    return [param for param in context.command.params if _given(context, str(param.name)) in sources]


def _given(context: typer.Context, name: str) -> str | None:
    source = context.get_parameter_source(name)
    return None if source is None else source.name


class _File:
    """A parsed file of options, for the command of `context`."""

    def __init__(self, path: Path, context: typer.Context) -> None:
        """Raises ConfigError."""
        self._path = path
        self._context = context
        parent: Any = context.parent
        self._params = keys(context.command if parent is None else parent.command.commands[OWNER])
        try:
            self._text = path.read_text(encoding="utf-8")
            self._document = tomllib.loads(self._text)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(f"{shown(path)} cannot be read: {reason}.") from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{shown(path)} is not TOML: {error}.") from None

    def values(self) -> dict[str, Any]:
        """Parameter name → checked value. Raises ConfigError."""
        found = {}
        for key, value in self._document.items():
            if key in ONLY_TYPED:
                raise self._error((key,), f"{key} is for the command line alone")
            if key not in self._params:
                raise self._error((key,), f"{_unknown(key, self._params)}")
            found[str(self._params[key].name)] = self._value(key, value)
        return found

    def _value(self, key: str, value: Any) -> Any:
        if key == TABLES and isinstance(value, list):
            return self._tables(value)
        param = self._params[key]
        typed = self._typed((key,), param, value)
        base = "" if self._path.parent == Path() else str(self._path.parent)
        typed = _placed(key, param, typed, lambda place: os.path.join(base, place))
        try:
            param.process_value(self._context, typed)
        except typer.BadParameter as error:
            raise self._error((key,), f"{key}: {error.message.rstrip('.')}") from None
        return typed

    def _typed(self, at: Place, param: Any, value: Any) -> Any:
        """The value as the command line would give it. Raises ConfigError for a wrong type."""
        kind = param.type_descriptor.annotation
        if get_origin(kind) is list:
            one = get_args(kind)[0]
            items = value if isinstance(value, list) else [value]
            return [self._single(at, one, item, several=True) for item in items]
        if isinstance(value, bool) and str(value).lower() in (param.type_descriptor.choices or ()):
            return str(value).lower()
        return self._single(at, kind, value)

    def _single(self, at: Place, kind: Any, value: Any, *, several: bool = False) -> Any:
        types, words = _expected(kind)
        if isinstance(value, bool) is (kind is bool) and isinstance(value, types):
            return str(value) if kind is Any else value
        words = f"{words}, or a list of such" if several else words
        raise self._error(at, f"{at[-1]} must be {words}, not {_as_toml(value)}")

    def _tables(self, tables: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
        """The questions, each checked. Raises ConfigError."""
        for number, table in enumerate(tables):
            place = (TABLES, number)
            if not isinstance(table, dict):
                raise self._error(place, f"{TABLES} must be a file's name, or tables [[{TABLES}]]")
            for key, value in table.items():
                if key not in TABLE_KEYS:
                    raise self._error((*place, key), _unknown(key, TABLE_KEYS))
                if key in self._params:
                    self._typed((*place, key), self._params[key], value)
            try:
                read_prompt(table, f"q{number + 1}")
            except SourceError as error:
                raise self._error(place, f"question {number + 1}: {error}") from None
        return tuple(tables)

    def _error(self, at: Place, complaint: str) -> ConfigError:
        return ConfigError(f"{shown(self._path)}, line {_line(self._text, at)}: {complaint}.")


def _unknown(key: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    (nearest,) = difflib.get_close_matches(key, list(known), n=1, cutoff=0)
    return f"there is no key {key}; the nearest one is {nearest}"


def _expected(kind: Any) -> tuple[tuple[type, ...], str]:
    """The types that a value of the file may have, and their description."""
    if kind is bool:
        return (bool,), "true or false"
    if kind is int:
        return (int,), "a whole number"
    if kind is float:
        return (int, float), "a number"
    if kind is Any:
        return (int, str), "a text in quotes or a whole number"
    return (str,), "a text in quotes"


def _as_toml(value: Any) -> str:
    return str(tomlkit.item(value).as_string()).strip()


def _line(text: str, at: Place) -> int:
    """The number of the line where the statement begins that sets this value."""
    lines = text.splitlines(keepends=True)
    begins = 1
    for number in range(1, len(lines) + 1):
        try:
            found: Any = tomllib.loads("".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue  # inside a statement of several lines
        try:
            for key in at:
                found = found[key]
            return begins
        except (KeyError, IndexError):
            begins = number + 1
    return begins


def _placed(key: str, param: Any, value: Any, place: Callable[[str], str]) -> Any:
    """The value with `place` applied to every file or folder name in it."""
    if isinstance(value, list):
        return [_placed(key, param, one, place) for one in value]
    if not isinstance(value, str):
        return value
    if key == "sink":
        kind, separator, path = value.partition(":")
        return f"{kind}{separator}{place(path)}" if path else value
    if key == "model":
        return place(value) if os.path.exists(place(value)) else value
    is_place = param.type_descriptor.annotation is Path or key in (
        "source",
        "image_root",
        "skip_answered",
        TABLES,
    )
    return place(value) if is_place and "://" not in value else value


def write_config(path: Path, context: typer.Context) -> None:
    """Write the given options into a file for --config. Raises ConfigError."""
    if path.suffix != SUFFIX:
        raise ConfigError(f"--write-config writes TOML: the name {shown(path)} must end in {SUFFIX}.")
    document = tomlkit.document()
    document.add(tomlkit.comment(f"Options of a run, for: captionmill run --config {shown(path)}"))
    document.add(tomlkit.comment("Relative paths begin at this file's folder."))
    panel = None
    for key, param, value in _given_values(path, context):
        if param.rich_help_panel != panel:
            panel = param.rich_help_panel
            document.add(tomlkit.nl())
            document.add(tomlkit.comment(f"--- {panel} ---"))
        for line in textwrap.wrap(param.help, COMMENT_WIDTH):
            document.add(tomlkit.comment(line))
        document.add(key, value)
    try:
        text = tomlkit.dumps(document).encode("utf-8")
        with path.open("xb") as file:
            file.write(text)
    except UnicodeEncodeError:
        raise ConfigError("A name that is not UTF-8 cannot stand in a TOML file.") from None
    except FileExistsError:
        raise ConfigError(f"{shown(path)} is there already: name another file, or remove it.") from None


def _given_values(path: Path, context: typer.Context) -> Iterator[tuple[str, Any, Item]]:
    """Key, parameter and TOML value of each given option; tables come last, as TOML requires."""
    here = path.parent.resolve() == Path.cwd()
    there = given(context)
    for key, param in sorted(keys(context.command).items(), key=lambda one: one[0] == TABLES):
        if param not in there:
            continue
        value = context.params[param.name]
        if key == "redis" and urlsplit(value).password:
            raise ConfigError(
                "The URL of --redis holds a password, which would be written to the file: leave --redis out, "
                "and set CAPTIONMILL_REDIS_URL."
            )
        if key == TABLES and isinstance(value, tuple):
            tables = tomlkit.aot()
            for table in value:
                tables.append(tomlkit.item(dict(table)))
            yield key, param, tables
            continue
        plain = _plain(value)
        placed = plain if here else _placed(key, param, plain, os.path.abspath)
        yield key, param, tomlkit.item(placed)


def _plain(value: Any) -> Any:
    """A parameter's value as a TOML type."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return os.fspath(value) if isinstance(value, Path) else value
