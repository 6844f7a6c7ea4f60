"""The tests on a machine without a browser: pages are skipped with one line, and fail where CI is set."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT

PAGES = "tests/producer/test_chat_page.py"
ANY_OTHER = "tests/contract/test_redis_url.py"


def pytest_run(path: Path, *arguments: str, ci: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": str(path), "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )


def test_pages_are_skipped_with_one_line_that_says_how_to_get_a_browser(tmp_path: Path) -> None:
    ran = pytest_run(tmp_path, PAGES, ANY_OTHER, ci="")
    assert ran.returncode == 0, ran.stdout
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("SKIPPED")]
    assert "apt install chromium" in line
    assert " 1 skipped" in ran.stdout


def test_where_ci_is_set_they_fail(tmp_path: Path) -> None:
    ran = pytest_run(tmp_path, PAGES, "-k", "says_what_to_start", ci="true")
    assert ran.returncode == 1, ran.stdout
    assert "need a Chromium: apt install chromium" in ran.stdout
