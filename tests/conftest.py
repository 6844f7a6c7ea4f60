"""A real server and two real models, the tiny random one and the demo's, for all tests that need them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import torch

from model_prep.convert import convert
from tests.checkpoints import make_tiny_checkpoint
from tests.processes import ROOT, start_server

DEMO_MODEL = ROOT / "demo" / "model"

torch.set_num_threads(1)  # OpenVINO's threads and torch's would fight for the cores


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in float32."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def tiny_folder(tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint as a model folder, exact."""
    out = tiny_checkpoint.parent / "folder"
    convert(
        str(tiny_checkpoint),
        out,
        weight_format="fp32",
        name="tiny",
        overwrite=False,
        on_stage=lambda _stage: None,
    )
    return out


@pytest.fixture(scope="module", params=["tiny", "demo"])
def checkpoint_and_folder(request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A checkpoint and the model folder made from it: the tiny pair, and the pair that ships."""
    if request.param == "demo":
        return DEMO_MODEL / "checkpoint", DEMO_MODEL / "openvino"
    return request.getfixturevalue("tiny_checkpoint"), request.getfixturevalue("tiny_folder")


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey server for the whole test run."""
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
