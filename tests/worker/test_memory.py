"""The memory left is the machine's, or the container's if that is less."""

from pathlib import Path

import pytest

from worker.memory import available_bytes

MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, 8_192_000_000), ("max", 8_192_000_000), ("5000000000", 4_000_000_000), ("900000000", 0)],
)
def test_the_smaller_limit_counts(tmp_path: Path, limit: str | None, expected: int) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.current").write_text("1000000000\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == expected


def test_this_machine_has_some_left() -> None:
    assert available_bytes() > 0
