"""A command whose output nobody reads any more ends quietly, as other tools do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.producer.test_cli import ask_all, captionmill, photos, worker
from tests.support.command import run_command
from tests.support.processes import ROOT

__all__ = ["photos", "worker"]

SIGPIPE_EXIT = 141


def unread(*arguments: str | Path, both: bool = False, script: str | None = None) -> tuple[int, str]:
    """The command with a pipe whose reader has gone for its stdout, and for its stderr too with `both`.

    Or a `script` in its place.
    """
    reader, writer = os.pipe()
    os.close(reader)
    try:
        if script is None:
            ran = run_command(*arguments, stdout=writer, stderr=writer if both else None)
            return ran.returncode, ran.stderr
        ran = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            stdout=writer,
            stderr=writer if both else subprocess.PIPE,
            text=True,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )
    finally:
        os.close(writer)
    return ran.returncode, ran.stderr or ""


@pytest.mark.usefixtures("worker")
def test_every_command_that_prints(redis_url: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ask_all(photos, out, redis_url)
    assert captionmill("run", *given).returncode == 0
    server = ("--redis", redis_url)
    commands: list[tuple[str | Path, ...]] = [
        ("run", *given),
        ("run", *given, "--json"),
        ("run", *given, "--dry-run"),
        ("run", "--resume", "--out", out, *server),
        ("submit", *given),
        ("collect", out, *server, "--json"),
        ("retry", out, *server),
        ("estimate", photos, "--question", "What?", *server, "--json"),
        ("watch", out),
        ("watch", out, "--json"),
        ("status", out),
        ("status", out, "--json"),
        ("list", tmp_path),
        ("list", tmp_path, "--json"),
        ("cancel", out, *server),
        ("cancel", out, *server, "--json"),
        ("top", "--once", *server),
        ("top", "--once", "--json", *server),
    ]
    found = {tuple(map(str, command)): unread(*command) for command in commands}
    assert set(found.values()) == {(SIGPIPE_EXIT, "")}, found
    assert unread("status", out, both=True) == (SIGPIPE_EXIT, "")
    assert unread("status", tmp_path / "none", both=True) == (SIGPIPE_EXIT, "")  # a sentence
    # What the command did until then holds.
    ran = captionmill("run", *given)
    assert ran.returncode == 0, ran.stderr


ANSWER = """
import typer
from captionmill.exits import sentences

def command():
    with sentences():
        print("An answer")

typer.run(command)
"""


def test_what_is_printed_last_and_not_flushed() -> None:
    assert unread(script=ANSWER) == (SIGPIPE_EXIT, "")


def test_an_answer_that_comes_word_by_word(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    command = ("ask", tmp_path / "a.png", "Describe the image.", "--model", ROOT / "demo/model/openvino")
    code, told = unread(*command)
    assert code == SIGPIPE_EXIT
    assert told.startswith("No server is named")  # a notice for people, on stderr
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help")])
def test_a_help_page(arguments: tuple[str, ...]) -> None:
    code, told = unread(*arguments)
    assert code != 0
    assert told == ""
