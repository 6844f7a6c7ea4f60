"""The Typer application that the files of commands add theirs to."""

from typing import Final

import typer
from rich.console import Console

app = typer.Typer(
    help="Answers questions about images in bulk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RUNS: Final = "Runs"
QUESTIONS: Final = "Single questions"
SITE: Final = "Workers and servers"
MODELS: Final = "Models"
"""Panels of the help page."""


def make_console(*, as_json: bool) -> Console:
    """For people; on stderr where stdout carries JSON."""
    return Console(stderr=as_json, markup=False, highlight=False, soft_wrap=True)
