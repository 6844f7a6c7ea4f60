"""The line that adds an extra works for a clone, a wheel, a folder and an index alike."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

SCRIPT = "from contract.installing import install_line; print(install_line('prep'))"


def told_in(folder: Path, *on_path: Path) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, on_path))},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.strip()


def install(packages: Path, origin: dict[str, object] | None) -> None:
    """As pip leaves a package, and where pip had it from."""
    shutil.copytree(ROOT / "contract", packages / "contract")
    about = packages / "captionmill-9.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: captionmill\nVersion: 9\n")
    if origin is not None:
        (about / "direct_url.json").write_text(json.dumps(origin))


def test_in_a_clone_it_is_the_clone_whatever_a_build_left_there(tmp_path: Path) -> None:
    """`pip install` leaves a captionmill.egg-info in a clone."""
    assert told_in(ROOT) == "pip install -e '.[prep]'"
    clone = tmp_path / "my clone"
    install(clone, None)
    (clone / "captionmill-9.dist-info").rename(clone / "captionmill.egg-info")
    (clone / "pyproject.toml").touch()
    assert told_in(clone) == "pip install -e '.[prep]'"
    assert told_in(tmp_path, clone) == f"pip install -e '{clone}[prep]'"


@pytest.mark.parametrize("name", ["captionmill-9-py3-none-any.whl", "a folder"])
def test_what_was_installed_from_a_file_names_the_file_while_it_is_there(tmp_path: Path, name: str) -> None:
    origin, packages = tmp_path / name, tmp_path / "packages"
    origin.touch()
    install(packages, {"url": origin.as_uri(), "archive_info": {}})
    assert told_in(tmp_path, packages) == f"pip install '{origin}[prep]'"
    origin.unlink()
    assert told_in(tmp_path, packages) == "pip install 'captionmill[prep]'"


@pytest.mark.parametrize("origin", [None, {"url": "https://example.org/a.whl", "archive_info": {}}])
def test_else_it_is_the_package_by_its_name(tmp_path: Path, origin: dict[str, object] | None) -> None:
    install(tmp_path / "packages", origin)
    assert told_in(tmp_path, tmp_path / "packages") == "pip install 'captionmill[prep]'"
