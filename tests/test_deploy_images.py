"""The Dockerfiles without Docker: pip lines in clean environments, start commands on a real server.

What only an image builder does is not run: FROM, useradd and install of folders, apt-get for GPUs.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from contract.store import WORKERS_KEY
from tests.support.processes import ROOT, spawn, wait_until
from worker.settings import PREFIX, Settings

pytestmark = pytest.mark.soak

MOST_WORKER_MB = 1200


@dataclass(frozen=True)
class Image:
    """What a Dockerfile says, and an environment that its pip line made."""

    text: str
    bin: Path

    def words(self, instruction: str) -> list[str]:
        """Of an instruction in exec form."""
        (line,) = re.findall(rf"^{instruction} (\[.*\])$", self.text, re.MULTILINE)
        words: list[str] = json.loads(line)
        return words

    def environment(self, **changes: str) -> dict[str, str]:
        """ENV of the Dockerfile, with the places of this machine."""
        (block,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", self.text, re.MULTILINE)
        given = dict(one.split("=", 1) for one in block.replace("\\\n", " ").split())
        path = {"PATH": f"{self.bin}:{os.environ['PATH']}"}
        return {**given, **changes, **path}

    def installed(self) -> set[str]:
        listed = subprocess.run(
            [self.bin / "pip", "list", "--format", "json"], check=True, capture_output=True, text=True
        )
        return {one["name"].lower() for one in json.loads(listed.stdout)}

    def installed_mb(self) -> float:
        files = (path for path in (self.bin.parent / "lib").rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files) / 1e6


def built(name: str, folder: Path) -> Image:
    """Its COPY lines into a folder, its pip line there in an empty environment."""
    text = (ROOT / "deploy" / f"{name}.Dockerfile").read_text()
    context = folder / "app"
    context.mkdir()
    for sources, target in re.findall(r"^COPY (.*) (\S+)$", text, re.MULTILINE):
        for source in sources.split():
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "training")
                shutil.copytree(ROOT / source, context / target, ignore=ignored)
            else:
                shutil.copy(ROOT / source, context / target)
    venv.create(folder / "venv", with_pip=True)
    image = Image(text, folder / "venv" / "bin")
    (install,) = re.findall(r"^RUN (pip install .*)$", text, re.MULTILINE)
    environment = {**os.environ, "PATH": f"{image.bin}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", install], cwd=context, env=environment, check=True)
    shutil.rmtree(context)
    return image


def run(image: Image, *arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*image.words("ENTRYPOINT"), *arguments],
        cwd=image.bin.parent,
        env=image.environment(**environment),
        capture_output=True,
        text=True,
        check=False,
    )


def test_worker_and_producer(tmp_path: Path, redis_url: str) -> None:
    """The worker's start command on the demo model, and a run of the sample images by the producer's."""
    for name in ("worker", "producer"):
        (tmp_path / name).mkdir()
    worker_image = built("worker", tmp_path / "worker")
    assert not {"torch", "nncf", "optimum-intel"} & worker_image.installed()
    print(f"worker: {worker_image.installed_mb():.0f} MB installed")
    assert worker_image.installed_mb() < MOST_WORKER_MB
    producer_image = built("producer", tmp_path / "producer")
    assert "torch" not in producer_image.installed()
    print(f"producer: {producer_image.installed_mb():.0f} MB installed")

    places = {
        "CAPTIONMILL_REDIS_URL": redis_url,
        "CAPTIONMILL_MODEL_FOLDER": str(ROOT / "demo" / "model" / "openvino"),
        "CAPTIONMILL_IMAGE_ROOTS": str(ROOT / "demo" / "images"),
        "CAPTIONMILL_CACHE_DIR": str(tmp_path / "compiled"),
        "CAPTIONMILL_HEALTH_FILE": str(tmp_path / "health.json"),
        "CAPTIONMILL_HTTP_PORT": "0",
    }
    environment = worker_image.environment(**places)
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = {name for name in environment if name.startswith(PREFIX)} - known
    environment = {name: value for name, value in environment.items() if name not in unknown}
    log = tmp_path / "worker.log"
    # Not in the repository, where the sources would be found instead of what is installed.
    command = ["env", "-C", str(tmp_path / "worker"), *worker_image.words("CMD")]
    worker = spawn(command, log, environment)
    with redis.Redis.from_url(redis_url) as connection:

        def told() -> int:
            assert worker.poll() is None, log.read_text()
            return int(connection.hlen(WORKERS_KEY))

        wait_until(told)
    if f"{PREFIX}HEALTH_FILE" in known:
        check = json.loads(re.findall(r"^    CMD (\[.*\])$", worker_image.text, re.MULTILINE)[0])
        check[-1] = str(tmp_path / "health.json")

        def healthy() -> bool:
            return subprocess.run(check, cwd=tmp_path, env=environment, check=False).returncode == 0

        wait_until(healthy)
    out = tmp_path / "out"
    ran = run(
        producer_image,
        *("run", str(ROOT / "demo" / "images"), "--question", "Describe the image.", "--out", str(out)),
        environment={"CAPTIONMILL_REDIS_URL": redis_url, "HF_HOME": str(tmp_path / "hub")},
    )
    assert ran.returncode == 0, ran.stderr + log.read_text()
    assert (out / "answers.jsonl").read_text().count("\n") == len(list((ROOT / "demo/images").glob("*.*")))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0


def test_model_prep(tmp_path: Path) -> None:
    """Its start command shows its help; that it converts is tested elsewhere, with the same packages."""
    image = built("model_prep", tmp_path)
    print(f"model_prep: {image.installed_mb():.0f} MB installed")
    assert "torch" in image.installed()
    shown = run(image, *image.words("CMD"), environment={})
    assert shown.returncode == 0, shown.stderr
    assert "Prepare model folders" in shown.stdout
