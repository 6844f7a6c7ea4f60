"""Assembles the `captionmill` command from the files of its commands."""

from captionmill import demo, models, operation, questions, run_folders, runs, worker
from captionmill.app import app

__all__ = ["app", "demo", "main", "models", "operation", "questions", "run_folders", "runs", "worker"]


def main() -> None:
    """The console script."""
    app()
