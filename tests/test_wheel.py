"""The package as people install it: what is in it, and that it works far from the repository."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from contract.store import WORKERS_KEY
from demo.samples import COUNT
from tests.support.processes import ROOT, spawn, wait_until

MOST_BYTES = 12_000_000
"""Bytes of a wheel without the built-in calibration set."""
BUILTIN_SET = ROOT / "model_prep" / "builtin"
MOST_SET_BYTES = 3_000_000
PACKAGES = {"captionmill", "contract", "worker", "producer", "model_prep", "demo"}
NOT_SOURCES = (
    *(".git", ".venv*", ".*_cache", "__pycache__", "*.egg-info", "build", "dist"),
    *("bench-out", "demo-out", "runs"),
)
USERS_OWN = ("worker", "producer", "captionmill", "celeryconfig", "redis", "PIL", "typer", "openvino")
"""Modules that a user's folder may have, too."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, as a build leaves files behind."""
    folder = tmp_path_factory.mktemp("sources") / "captionmill"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_SOURCES), symlinks=True)
    return folder


def make_wheel(sources: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), "."], cwd=sources, check=True)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(sources, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of a fresh environment are that has the wheel and nothing but what it asks for."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    install += ["-c", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(install, env=clean(), check=True)
    return folder / "bin"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A user's folder, whose own modules are named like ours and like those we need."""
    folder = tmp_path / "own"
    for name in ("demo", "contract"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('own {name}')\n")
    for name in USERS_OWN:
        (folder / f"{name}.py").write_text(f"raise SystemExit('own {name}')\n")
    return folder


def clean() -> dict[str, str]:
    """The environment without what leads back to the repository."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CAPTIONMILL_", "PYTHON")) and name != "VIRTUAL_ENV"
    }


def captionmill(programs: Path, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [programs / "captionmill", *arguments],
        cwd=folder,
        env=clean(),
        capture_output=True,
        text=True,
        check=False,
    )


def installed_demo(programs: Path) -> Path:
    """The folder of the installed package `demo`."""
    script = "import demo, pathlib; print(pathlib.Path(demo.__file__).parent)"
    found = subprocess.run(
        [programs / "python", "-P", "-c", script], check=True, capture_output=True, env=clean()
    )
    return Path(os.fsdecode(found.stdout).strip())


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_what_users_need_and_no_more(wheel: Path) -> None:
    found = names(wheel)
    assert {name.partition("/")[0] for name in found if ".dist-info/" not in name} == PACKAGES
    assert not [name for name in found if "checkpoint/" in name or "/training/" in name]
    for kind in ("images", "model/openvino"):
        there = {f"demo/{kind}/{path.name}" for path in (ROOT / "demo" / kind).iterdir()}
        assert there == {name for name in found if name.startswith(f"demo/{kind}/")}
    pictures = {f"model_prep/builtin/{path.name}" for path in BUILTIN_SET.iterdir() if path.is_file()}
    assert {name for name in found if name.startswith("model_prep/builtin/")} == pictures
    assert sum(path.stat().st_size for path in BUILTIN_SET.iterdir() if path.is_file()) <= MOST_SET_BYTES
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "training" not in path.parts
    }
    assert modules <= found
    assert wheel.stat().st_size <= MOST_BYTES + MOST_SET_BYTES


def test_the_source_distribution_makes_the_same_wheel(sources: Path, wheel: Path, tmp_path: Path) -> None:
    script = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, tmp_path], cwd=sources, check=True, capture_output=True)
    (archive,) = tmp_path.glob("captionmill-*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert names(make_wheel(unpacked, tmp_path / "wheel")) == names(wheel)


def test_the_plain_install_is_complete_and_has_no_torch(programs: Path) -> None:
    checked = subprocess.run(
        [programs / "pip", "check"], env=clean(), capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    listed = subprocess.run(
        [programs / "pip", "list", "--format", "json"],
        env=clean(),
        check=True,
        capture_output=True,
        text=True,
    )
    installed = {one["name"].lower() for one in json.loads(listed.stdout)}
    assert "captionmill" in installed
    assert not {"torch", "nncf", "pytest", "gradio"} & installed
    assert not [name for name in installed if name.startswith(("nvidia", "cuda"))]


def test_the_demo_elsewhere(programs: Path, elsewhere: Path) -> None:
    ran = captionmill(programs, elsewhere, "demo")
    assert ran.returncode == 0, ran.stderr
    right = re.search(rf"Right: (\d+) of {COUNT} descriptions", ran.stdout)
    assert right
    assert int(right[1]) >= 20
    assert (elsewhere / "captionmill-demo" / "contact_sheet.html").exists()


def test_a_run_without_a_server_elsewhere(programs: Path, elsewhere: Path) -> None:
    demo = installed_demo(programs)
    shutil.copytree(demo / "images", elsewhere / "photos")
    ran = captionmill(programs, elsewhere, "run", "photos", "--model", demo / "model" / "openvino")
    assert ran.returncode == 0, ran.stderr
    assert (elsewhere / "photos-answers" / "answers.jsonl").read_text().count("\n") == COUNT


@contextmanager
def worker(programs: Path, folder: Path, redis_url: str, images: Path, log: Path) -> Iterator[None]:
    """Started in `folder`; every image is decoded in a process of its own."""
    model = installed_demo(programs) / "model" / "openvino"
    options = ("--redis", redis_url, "--model", str(model), "--image-root", str(images))
    command = [str(programs / "captionmill"), "worker", *options, "--image-isolation", "all"]
    process = spawn(["env", "-u", "PYTHONPATH", "-C", str(folder), *command], log, {})
    try:
        with redis.Redis.from_url(redis_url) as connection:

            def told() -> int:
                assert process.poll() is None, log.read_text()
                return int(connection.hlen(WORKERS_KEY))

            wait_until(told)
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def test_a_worker_and_a_server_elsewhere(
    programs: Path, elsewhere: Path, redis_url: str, tmp_path: Path
) -> None:
    photos = installed_demo(programs) / "images"
    log = tmp_path / "worker.log"
    with worker(programs, elsewhere, redis_url, photos, log):
        question = "Describe the image."
        asked = captionmill(
            programs, elsewhere, "ask", photos / "01-square.png", question, "--redis", redis_url
        )
        assert asked.returncode == 0, asked.stderr + log.read_text()
        assert "a large pink heart" in asked.stdout
        ran = captionmill(programs, elsewhere, "run", photos, "--redis", redis_url)
        assert ran.returncode == 0, ran.stderr + log.read_text()
    assert (elsewhere / "images-answers" / "answers.jsonl").read_text().count("\n") == COUNT


def test_the_doctor_elsewhere(programs: Path, elsewhere: Path) -> None:
    if "  doctor " not in captionmill(programs, elsewhere, "--help").stdout:
        pytest.skip("there is no captionmill doctor yet")
    ran = captionmill(programs, elsewhere, "doctor")
    assert "Traceback" not in ran.stderr
    assert "OpenVINO" in ran.stdout
