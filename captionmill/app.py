"""The Typer application that command files add their commands to; knows no command."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from typer.core import TyperCommand

from captionmill.help_page import PanelledCommand, PanelledGroup

RUNS: Final = "Runs"
QUESTIONS: Final = "Single questions"
SITE: Final = "Workers and servers"
MODELS: Final = "Models"
"""Panels of the help page, and their titles."""


class _App(typer.Typer):
    """A Typer application whose commands all have panelled help pages."""

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **more: Any
    ) -> Callable[[Any], Any]:
        return super().command(name, cls=cls or PanelledCommand, **more)


def make_app(**more: Any) -> typer.Typer:
    """A group of commands with the same kind of help pages as all others."""
    return _App(
        cls=PanelledGroup,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
        **more,
    )


app: Final = make_app(no_args_is_help=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"captionmill {version('captionmill')}")
        raise typer.Exit


@app.callback()
def captionmill(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Answers questions about images in bulk.

    Try it: captionmill demo. Then: captionmill run PHOTOS --model MODEL, where PHOTOS is a folder of images
    and MODEL a model folder. `captionmill COMMAND --help` describes a command.
    """


class CommandConsole(Console):
    """A console that raises BrokenPipeError when the reader of its pipe has gone."""

    def on_broken_pipe(self) -> NoReturn:
        self.quiet = True
        raise BrokenPipeError


def make_console(*, as_json: bool) -> Console:
    """The console for people: on stderr if stdout carries JSON, else on stdout."""
    return CommandConsole(stderr=as_json, markup=False, highlight=False, soft_wrap=True)
