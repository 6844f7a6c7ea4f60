"""docs/architecture.md names files that exist, and every room of the worker."""

import re

import pytest

from tests.support.processes import ROOT
from tests.test_imports import ROOMS

PAGE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = sorted(set(re.findall(r"`([a-z_0-9]+/[a-z_0-9/]*(?:\.[a-z]+)?)`", PAGE)))


@pytest.mark.parametrize("name", NAMED)
def test_a_file_that_is_named_is_there(name: str) -> None:
    assert (ROOT / name).exists()


def test_a_step_of_each_room_is_named() -> None:
    assert len(NAMED) > 50
    for room in ROOMS - {"monitoring"}:
        assert any(name.startswith(f"worker/{room}/") for name in NAMED), room
