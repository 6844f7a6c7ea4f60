"""The bench's commands: each has a sentence on the help page, and a document that names it."""

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from bench.__main__ import MODULES, app
from tests.support.processes import ROOT

DOCUMENTS = "\n".join(
    path.read_text() for path in (*ROOT.glob("*.md"), ROOT / "Makefile", *ROOT.glob("docs/*.md"))
)
NAMED = set(re.findall(r"python -m bench ([a-z-]+)", DOCUMENTS))


@pytest.mark.parametrize("name", MODULES)
def test_a_command_is_there_and_a_document_names_it(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0, shown.output
    assert f"bench {name}" in shown.output or f"{name} [OPTIONS]" in shown.output
    assert name in NAMED


def test_every_command_of_a_document_is_there() -> None:
    assert {*NAMED} == MODULES.keys()
    assert not re.search(r"python -m bench\.", DOCUMENTS)


def test_the_help_page_has_a_sentence_for_each() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"})
    assert shown.exit_code == 0
    for name in MODULES:
        assert re.search(rf"│ {name} +\w[^│]*\.? *│", shown.output), name


def test_a_command_that_is_not_there_is_refused() -> None:
    assert CliRunner().invoke(app, ["soaking"]).exit_code == 2


def test_a_measurement_without_torch_is_asked_for_without_torch() -> None:
    script = (
        "import sys; from bench.__main__ import app; app(['queueing', '--help'], standalone_mode=False); "
        "sys.exit(sorted({'torch', 'openvino'} & sys.modules.keys()) or None)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
