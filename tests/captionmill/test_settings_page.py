"""docs/settings.md, the options of `captionmill worker` and the settings themselves say the same."""

import re

import pytest

from captionmill.setting_options import default, described, groups, option, what_if_unset
from captionmill.settings_page import PAGE, page
from producer.settings import Settings as ProducerSettings
from tests.support.command import run_command
from tests.support.processes import ROOT
from worker.settings import GROUPS, Settings, variable


def test_the_page_is_what_the_command_writes() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(), "run: make settings"


def test_every_setting_is_on_the_page_once() -> None:
    written = re.findall(r"^\| `(CAPTIONMILL_\w+)`", page(), flags=re.MULTILINE)
    both = [*Settings.model_fields, *ProducerSettings.model_fields]
    assert sorted(written) == sorted(variable(name) for name in both)


def test_every_setting_is_in_one_group() -> None:
    assert list(groups()) == list(GROUPS)
    assert [name for settings in groups().values() for name in settings] == list(Settings.model_fields)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described_in_plain_words(name: str) -> None:
    field = Settings.model_fields[name]
    told = described(field)
    assert re.match(r"[A-Z`]", told), told
    assert told.endswith("."), told
    assert "None" not in told, "None is a word of Python's"
    shown = (default(field) is not None) + (what_if_unset(field) is not None)
    assert shown == (not field.is_required()), "a default is told as a value or in words"


@pytest.fixture(scope="module")
def help_page() -> str:
    """As a terminal of 80 columns shows it."""
    shown = run_command("worker", "--help-all", env={"COLUMNS": "80", "PATH": ""})
    assert shown.returncode == 0
    return shown.stdout


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_option_is_whole_on_the_help_page(help_page: str, name: str) -> None:
    assert re.search(rf"^  {option(name)}\b", help_page, flags=re.MULTILINE)


def test_nothing_is_cut_on_the_help_page(help_page: str) -> None:
    assert "…" not in help_page
    assert max(map(len, help_page.splitlines())) <= 80
    titles = re.findall(r"^(\S.*):$", help_page, flags=re.MULTILINE)
    assert titles == [*GROUPS, "Options"]
