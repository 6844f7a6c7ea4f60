"""What the command says of itself: help pages, version, completion, and words that it does not know."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import typer
from typer.core import TyperOption
from typer.testing import CliRunner

from captionmill.cli import app
from tests.support.command import run_command
from tests.support.processes import ROOT

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
NOTHING: Mapping[str, str] = MappingProxyType({})
MOST_LINES = 60
MOST_COLUMNS = 80
FIRST = {
    "run": {
        *("--out", "--model", "--question", "--questions", "--choice", "--recursive", "--sink", "--resume"),
        *("--dry-run", "--redis", "--workers", "--max-new-tokens", "--num-beams", "--do-sample"),
    },
    "submit": {"--out", "--model", "--question", "--questions", "--recursive", "--sink", "--redis"},
    "estimate": {"--model", "--question", "--recursive", "--sample", "--workers", "--redis"},
    "retry": {"--code", "--model", "--workers", "--redis", "--max-new-tokens"},
    "ask": {"--choice", "--model", "--workers", "--redis", "--max-new-tokens"},
    "worker": {"--redis", "--model", "--image-root", "--device", "--concurrency"},
}
"""Command → options that its short page has."""


def said(*arguments: str, code: int = 0, environment: Mapping[str, str] = NOTHING) -> str:
    """What the command prints; it ends with `code`, and one of its two outputs is empty."""
    ran = run_command(*arguments, env={**os.environ, "COLUMNS": str(MOST_COLUMNS), **environment})
    assert ran.returncode == code, ran.stdout + ran.stderr
    assert "" in (ran.stdout, ran.stderr)
    return ran.stdout + ran.stderr


def started(*arguments: str, **environment: str) -> str:
    """What the command prints if a shell starts it: completion looks at which shell that is."""
    line = shlex.join([sys.executable, "-m", "captionmill", *arguments])
    ran = subprocess.run(
        ["bash", "-c", f"{line}; true"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout


def page(command: str, option: str) -> str:
    """A help page, as at a terminal of 80 columns."""
    shown = CliRunner().invoke(app, [command, option], env={"COLUMNS": str(MOST_COLUMNS)})
    assert shown.exit_code == 0
    return shown.stdout


def options(command: str) -> set[str]:
    """Every long option that a command takes, the help options aside."""
    return {
        name
        for param in COMMANDS[command].params
        if isinstance(param, TyperOption)
        for name in (*param.opts, *param.secondary_opts)
    }


def named(text: str) -> set[str]:
    """Options that stand in the left column of a help page."""
    heads = re.findall(r"^  (-\S.*?)(?:  |$)", text, re.MULTILINE)
    return {name for head in heads for name in re.findall(r"--[a-z-]+", head)}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_short_page_is_short_and_leads_to_the_long_one(command: str) -> None:
    short = page(command, "--help")
    lines = short.splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= MOST_COLUMNS
    assert FIRST.get(command, set()) <= named(short)
    left_out = options(command) - named(short)
    if not left_out:
        assert "--help-all" not in short
        return
    assert "--help-all" in named(short)
    full = page(command, "--help-all")
    assert options(command) <= named(full)
    assert max(map(len, full.splitlines())) <= MOST_COLUMNS


def test_the_pages_have_panels() -> None:
    headings = re.findall(r"^(\S.*):$", page("run", "--help-all"), re.MULTILINE)
    assert headings[0] == "Arguments"
    assert headings[-1] == "Options"
    panels = {param.rich_help_panel for param in COMMANDS["run"].params} - {None}
    assert panels == set(headings[1:-1])
    of_group = re.findall(r"^(\S.*):$", said("--help"), re.MULTILINE)
    assert of_group == ["Options", "Runs", "Single questions", "Workers and servers", "Models"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_told(command: str) -> None:
    assert [param.name for param in COMMANDS[command].params if not param.help] == []


def every_command(group: Any = None, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The words that a command is typed with, and the command; groups too."""
    group = group or typer.main.get_command(app)
    yield words, group
    for name, command in getattr(group, "commands", {}).items():
        yield from every_command(command, *words, name)


def test_every_page_is_whole_and_has_a_short_option_for_it() -> None:
    for words, command in every_command():
        pages = [
            CliRunner().invoke(app, [*words, option], env={"COLUMNS": str(MOST_COLUMNS)})
            for option in ("--help", "-h")
        ]
        assert [page.exit_code for page in pages] == [0, 0], words
        assert pages[0].stdout == pages[1].stdout, words
        assert not re.search(r"[a-z,]\.\.\.$", pages[0].stdout, re.MULTILINE), words  # SOURCE... may be
        for name in getattr(command, "commands", {}):
            assert re.search(rf"^  {name}  +\S", pages[0].stdout, re.MULTILINE), (words, name)


def test_every_model_option_knows_the_demo() -> None:
    told = {
        words: param.help
        for words, command in every_command()
        for param in command.params
        if "--model" in param.opts and words != ("submit",)  # it goes to workers that are there
    }
    assert len(told) >= 6
    assert [words for words, text in told.items() if not re.search(r"\bdemo\b", text)] == []
    for kind in ("model folder", "checkpoint folder", "hub id"):
        assert kind in told["worker",].lower()


def test_version() -> None:
    assert re.fullmatch(r"captionmill \d+\.\d+\.\d+\n", said("--version"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    """The script that a shell reads, and what the command then completes."""
    script = started("--show-completion", shell)
    assert "_CAPTIONMILL_COMPLETE" in script
    words = {
        "bash": {"COMP_WORDS": "captionmill run --num", "COMP_CWORD": "2"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "captionmill run --num"},
        "fish": {"_TYPER_COMPLETE_ARGS": "captionmill run --num", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }
    completed = said(environment={"_CAPTIONMILL_COMPLETE": f"complete_{shell}", **words[shell]})
    assert {"--num-beams", "--num-return-sequences"} <= set(re.findall(r"--[a-z-]+[a-z]", completed))


def test_completion_is_installed_in_the_home_folder(tmp_path: Path) -> None:
    told = started("--install-completion", "bash", HOME=str(tmp_path))
    assert "bash completion installed" in told
    assert "captionmill" in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("rnu",), "captionmill: No such command 'rnu'. Did you mean 'run'? See: captionmill --help"),
        (("run", "--qestion", "A?"), "--question"),
        (("run", "--num-beams", "65"), "captionmill: Invalid value for '--num-beams'"),
        (("run", "--num-beams"), "captionmill: Option '--num-beams' requires an argument."),
        (("run", "a", "b", "--format", "word"), "captionmill: "),
        (("submit", "photos"), "captionmill: Missing option '--out'. See: captionmill submit --help"),
        (("estimate",), "captionmill: Missing argument 'SOURCE...'. See: captionmill estimate --help"),
        (("--versoin",), "--version"),
    ],
)
def test_words_that_the_command_does_not_know(words: tuple[str, ...], sentence: str) -> None:
    told = said(*words, code=2)
    assert sentence in told
    assert told.startswith("captionmill: ")
    assert told.count("\n") == 1


def test_the_command_alone_says_what_to_begin_with() -> None:
    told = said(code=2)
    assert "captionmill demo" in told
    assert "captionmill run PHOTOS --model MODEL" in told
