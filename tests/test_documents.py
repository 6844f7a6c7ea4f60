"""Every command that README and quickstart ask a person to type is typed, by a shell, on the demo model."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import ROOT, free_port

DOCUMENTS = ("README.md", "docs/quickstart.md")
REASONS = {"install", "hub", "cluster"}
"""Why a block is not run: it makes an environment, or it needs a model hub or several machines."""
MOST_WORDS = 900
LONGEST_ENTRY = 400
"""Characters of an entry of docs/log.md, which stands on one line."""
ALL = [
    "README.md",
    "demo/README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md")),
]
PORT = "6380"
"""Of the documents' own server; the test takes a free one."""
LISTENS = f"until (: < /dev/tcp/127.0.0.1/{PORT}) 2> /dev/null; do sleep 0.1; done\n"
"""A person sees that the server has started before typing on."""
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^>]*) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Commands of a document, and why they are not run."""

    text: str
    reason: str | None


def blocks(document: str) -> list[Block]:
    found = BLOCK.finditer((ROOT / document).read_text())
    return [Block(one["text"], one["reason"]) for one in found if one["kind"] == "sh"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What a clone has of what the documents use; the rest they make themselves."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    return tmp_path


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_of_a_document_run(document: str, home: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CAPTIONMILL_")}
    environment = {
        **inherited,
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_DATA_HOME": str(home / "data"),
    }
    run = [
        one.text + (LISTENS if "captionmill server" in one.text else "")
        for one in blocks(document)
        if one.reason is None
    ]
    assert len(run) >= 5
    script = "set -eux\ntrap 'kill -9 $(jobs -p) 2>/dev/null || true' EXIT\n" + "\n".join(run).replace(
        PORT, str(free_port())
    )
    ran = subprocess.run(
        ["bash", "-c", script], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_stands_in_a_block_that_is_run_or_says_why_not(document: str) -> None:
    text = (ROOT / document).read_text()
    outside = BLOCK.sub("", text)
    assert not re.search(r"^(    |\t)?(\$ )?(captionmill|pip|make|celery|python3?) ", outside, re.MULTILINE)
    assert {one.reason for one in blocks(document)} <= REASONS | {None}


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= MOST_WORDS


def test_entries_of_the_log_are_short_and_say_what_was_tried_measured_and_decided() -> None:
    text = (ROOT / "docs" / "log.md").read_text()
    lines = [line for line in text[text.index("\n## ") :].splitlines() if line and not line.startswith("#")]
    assert len(lines) > 50
    entry = re.compile(r"- \*\*Tried:\*\* .+ \*\*Measured:\*\* .+ \*\*Decided:\*\* .+")
    assert not [line for line in lines if not entry.fullmatch(line)]
    assert not [line for line in lines if len(line) > LONGEST_ENTRY]


def test_the_changelog_has_versions_from_the_newest_on() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    found = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+) \((?:unreleased|\d{4}-\d\d-\d\d)\)", one) for one in headings]
    versions = [tuple(map(int, one.groups())) for one in found if one]
    assert len(versions) == len(headings) > 1
    assert versions == sorted(versions, reverse=True)
    newest = ".".join(map(str, versions[0]))
    assert f'\nversion = "{newest}"\n' in (ROOT / "pyproject.toml").read_text()


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}
    assert pages <= set(re.findall(r"\]\(([^)]+)\)", index))


@pytest.mark.parametrize("document", ALL)
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        if "://" in target:
            continue
        path = (ROOT / document).parent / name if name else ROOT / document
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in {_anchor(one) for one in headings}, target


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
