"""A user's cache folder for tests of models, and the real commands that use it."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from captionmill.kept_models import MODELS
from tests.support.command import run_command
from tests.support.processes import ROOT

DEMO_CHECKPOINT: Final = ROOT / "demo" / "model" / "checkpoint"
DEMO_FOLDER: Final = ROOT / "demo" / "model" / "openvino"
IMAGE: Final = ROOT / "demo" / "images" / "01-square.png"
CONVERTED: Final = "is converted, and kept as"
"""What a command says that converts."""


@dataclass(frozen=True)
class Cache:
    """The user's cache folder of a test, and the commands that use it."""

    home: Path
    variables: dict[str, str]

    @property
    def models(self) -> Path:
        return self.home / "captionmill" / MODELS

    def run(self, *arguments: str | Path, module: str = "captionmill") -> subprocess.CompletedProcess[str]:
        # What is hidden from a process is hidden where it starts.
        if module == "captionmill" and "PYTHONPATH" not in self.variables:
            return run_command(*arguments, env=self.environment)
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        # A shell that starts the tests in its background leaves them deaf to Ctrl-C.
        return subprocess.Popen(
            [sys.executable, "-m", "captionmill", *map(str, arguments)],
            cwd=ROOT,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CAPTIONMILL_")}
        return {**inherited, "XDG_CACHE_HOME": str(self.home), "COLUMNS": "200", **self.variables}

    def kept(self) -> dict[str, dict[str, Any]]:
        """What `models --json` says, by name."""
        ran = self.run("models", "--json")
        assert ran.returncode == 0, ran.stderr
        return {row["name"]: row for row in map(json.loads, ran.stdout.splitlines())}

    def only(self) -> dict[str, Any]:
        (row,) = self.kept().values()
        return row

    def convert(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        ran = self.run("convert", *arguments)
        assert ran.returncode == 0, ran.stderr
        return ran


def refused(ran: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, and one sentence on stderr with `words` in it."""
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    sentences = [line for line in ran.stderr.splitlines() if all(word in line for word in words)]
    assert len(sentences) == 1, ran.stderr
