"""Judges whether this worker lives and takes jobs, and writes it to a file; knows no engine, broker or HTTP.

`python -m worker.monitoring.health FILE [live|ready]` reads the file of another process: exit code 0 is yes,
1 is no. It imports the standard library alone, as containers ask every few seconds.
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

FILE_EVERY_S: Final = 2.0
FILE_STALE_S: Final = 30.0
"""Age in seconds at which a file counts as left by a stuck or ended process."""
HUB_STUCK_S: Final = 300.0
"""Most seconds between two turns of Celery's loop, in whose thread `-P solo` runs a whole job."""
HUB_FRESH_S: Final = 15.0
"""Seconds since the last turn of Celery's loop after which a worker is not ready."""


@dataclass(frozen=True)
class Health:
    """One look at the worker. Ages are seconds since the thread last showed that it lives."""

    time: float
    """Unix time of the look"""
    pid: int
    engine_tick_age_s: float
    hub_tick_age_s: float
    broker: bool
    """whether it answers"""
    draining: bool
    stuck: Literal["engine", "hub"] | None
    """which of the two threads has not moved for longer than it may"""

    @property
    def live(self) -> bool:
        """Whether it may go on; otherwise it must be restarted."""
        return self.stuck is None

    @property
    def ready(self) -> bool:
        """Whether it takes jobs."""
        return not self.why_not_ready

    @property
    def why_not_ready(self) -> str:
        """Why it takes no jobs, in a few words; empty if it is ready."""
        if self.stuck:
            return f"the {self.stuck} is stuck"
        if self.draining:
            return "draining"
        if not self.broker:
            return "the broker is away"
        if self.hub_tick_age_s > HUB_FRESH_S:
            return "not consuming"
        return ""

    def as_json(self) -> str:
        return json.dumps(
            {**asdict(self), "live": self.live, "ready": self.ready, "why_not_ready": self.why_not_ready}
        )


def write_health(health: Health, path: Path) -> None:
    """Write the file as a whole or not at all. Raises OSError."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(health.as_json() + "\n", encoding="utf-8")
    part.replace(path)


def file_says(path: Path, wanted: Literal["live", "ready"], now: float) -> str:
    """Empty if the file says `wanted` and is fresh, else the reason. `now` is Unix time in seconds."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        age_s = now - report["time"]
        if age_s > FILE_STALE_S:
            return f"{path} is {age_s:.0f} s old"
        return "" if report[wanted] else f"not {wanted}: {report['why_not_ready']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{path} cannot be read: {type(error).__name__}"


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2) or arguments[1:] not in ([], ["live"], ["ready"]):
        print("python -m worker.monitoring.health FILE [live|ready]", file=sys.stderr)
        return 2
    wanted: Literal["live", "ready"] = "ready" if arguments[1:] == ["ready"] else "live"
    complaint = file_says(Path(arguments[0]), wanted, time.time())
    if complaint:
        print(complaint, file=sys.stderr)
    return 1 if complaint else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
