"""The result of a scenario, as a line of JSON; knows no scenario."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.processes import ROOT

RESULTS: Final = Path(os.environ.get("FAULT_RESULTS", ROOT / "bench-out" / "faults.jsonl"))


@dataclass
class Result:
    """One run of a scenario."""

    name: str
    jobs: int
    lost: int
    """Rows without a visible record."""
    twice: int
    """Rows with more than one."""
    foreign: int
    """Visible records of no row, or with another row's answer."""
    executed_again: int | None
    """Executions begun beyond the first of each row; None with the real engine, which does not count them."""
    failed: dict[str, int] = field(default_factory=dict)
    """Failure code to rows that ended in it."""
    recover_s: float | None = None
    """From the end of the fault to what the scenario calls recovered."""
    left: tuple[str, ...] = ()
    """What the run left in broker and store that it should not have."""
    note: str = ""
    seed: int = 0
    waits: str = "short"
    """Or as shipped."""

    def keep(self) -> None:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps(asdict(self)) + "\n")


def kept(path: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Name → the scenario's latest result."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {found["name"]: found for found in map(json.loads, lines)}
