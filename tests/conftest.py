"""A real server and three real models, two small random ones and the demo's, for all tests that need them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import torch

from model_prep.convert import convert
from model_prep.settings import PRESETS
from tests.support.checkpoints import make_other_checkpoint, make_tiny_checkpoint
from tests.support.processes import ROOT, start_server

DEMO_MODEL = ROOT / "demo" / "model"

# A shell that starts the tests in the background has them ignore it, and their child processes with them.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # OpenVINO's threads and torch's would fight for the cores


SERVER_FIXTURES = {"server_url", "make_site"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need a server, for `make test-redis`."""
    for item in items:
        if not SERVER_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.server)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in float32."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def tiny_folder(tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint as a model folder, exact."""
    return _converted(tiny_checkpoint, "tiny")


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in float32, in a model built otherwise than the tiny one."""
    return make_other_checkpoint(tmp_path_factory.mktemp("other") / "checkpoint")


@pytest.fixture(scope="session")
def other_folder(other_checkpoint: Path) -> Path:
    """The other checkpoint as a model folder, exact."""
    return _converted(other_checkpoint, "other")


def _converted(checkpoint: Path, name: str) -> Path:
    out = checkpoint.parent / "folder"
    convert(str(checkpoint), out, PRESETS["exact"], name=name)
    return out


@pytest.fixture(scope="module", params=["tiny", "other", "demo"])
def checkpoint_and_folder(request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A checkpoint and the model folder made from it: the two random pairs, and the pair that ships."""
    if request.param == "demo":
        return DEMO_MODEL / "checkpoint", DEMO_MODEL / "openvino"
    fixtures = (f"{request.param}_checkpoint", f"{request.param}_folder")
    checkpoint, folder = (request.getfixturevalue(name) for name in fixtures)
    return checkpoint, folder


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for the whole test run: the one at TEST_REDIS_URL, which is emptied, or a Valkey server."""
    if "TEST_REDIS_URL" in os.environ:
        yield os.environ["TEST_REDIS_URL"].rstrip("/")
        return
    process, url = start_server(tmp_path_factory.mktemp("server"))
    yield url
    process.kill()
    process.wait()


@pytest.fixture
def redis_url(server_url: str) -> str:
    """The server's first database, empty."""
    with redis.Redis.from_url(server_url) as connection:
        connection.flushall()
    return f"{server_url}/0"


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder to put images into, which is an image root of the workers in tests."""
    folder = tmp_path / "images"
    folder.mkdir()
    return folder
