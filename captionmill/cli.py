"""Assembles the `captionmill` command from the files of its commands."""

from captionmill import demo, doctor, models, operation, questions, run_folders, runs, server, worker
from captionmill.app import app

__all__ = [
    "app",
    "demo",
    "doctor",
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
    """The console script."""
    app()
