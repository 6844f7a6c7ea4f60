"""Assembles the `captionmill` command from its command files."""

import sys

from typer.exceptions import TyperException

from captionmill import demo, doctor, export, models, operation, questions, run_folders, runs, server, worker
from captionmill.app import app
from captionmill.exits import NAME

__all__ = [
    "app",
    "demo",
    "doctor",
    "export",
    "main",
    "models",
    "operation",
    "questions",
    "run_folders",
    "runs",
    "server",
    "worker",
]


def main() -> None:
    """Run the command line, and exit with its code."""
    try:
        code = app(prog_name=NAME, standalone_mode=False)
    except TyperException as refused:
        _tell(refused)
        code = refused.exit_code
    sys.exit(code)


def _tell(refused: TyperException) -> None:
    """Print an error of the command line's parser as one sentence on stderr."""
    context = getattr(refused, "ctx", None)
    message = refused.format_message().strip()
    if context is None:
        print(f"{NAME}: {message}", file=sys.stderr)
    elif message == context.get_help().strip():  # a command without arguments
        print(message, file=sys.stderr)
    else:
        told = message if message.endswith((".", "?")) else f"{message}."
        print(f"{NAME}: {told} See: {context.command_path} --help", file=sys.stderr)
