"""A site for each scenario, and the check that every scenario must pass."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.result import Result
from tests.faults.site import AS_SHIPPED, Site

MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    """Opens sites that end with the test."""
    with ExitStack() as stack:

        def make(name: str, **options: Any) -> Site:
            return stack.enter_context(Site(tmp_path, name, **options))

        yield make


def assert_kept(result: Result) -> None:
    """Each row is visible once, with its own answer, and nothing is left in broker or store.

    Messages that could not be acknowledged wait for the visibility timeout, which no test with shipped waits
    awaits.
    """
    assert (result.lost, result.twice, result.foreign) == (0, 0, 0), result
    left = [one for one in result.left if not (AS_SHIPPED and one.endswith("unacknowledged"))]
    assert left == [], result
