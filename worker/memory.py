"""Measures how much memory this process may still take; knows no use for it."""

from pathlib import Path
from typing import Final

MEMINFO: Final = Path("/proc/meminfo")
CGROUP: Final = Path("/sys/fs/cgroup")
"""Folder where a container sees its own limits (cgroup version 2)."""


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int:
    """Bytes left on the machine or within the container's limit, whichever is less."""
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    of_machine = int(fields["MemAvailable"].split()[0]) * 1024
    limit = cgroup / "memory.max"
    if not limit.is_file() or (limit_text := limit.read_text().strip()) == "max":
        return of_machine
    used = int((cgroup / "memory.current").read_text())
    return min(of_machine, max(0, int(limit_text) - used))
