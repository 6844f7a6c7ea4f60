"""Writes the measurements of `engine` as Markdown tables and as JSON; measures nothing."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.comparisons import Contest
from bench.roofline import Peaks
from bench.rounds import Rounds
from bench.targets import Mark, marks
from bench.utilisation import utilisation
from bench.workloads import UNIT_WORKS, Work

GIGA = 1e9
Rows = list[list[str]]


@dataclass(frozen=True)
class Report:
    """All results and the machine; `rounds` may still grow."""

    machine: dict[str, Any]
    peaks: Peaks
    contests: tuple[Contest, ...]
    works: tuple[Work, ...]
    rounds: Rounds

    def write(self, path: Path) -> None:
        """Write the tables to `path` (.md), and every try and run to the .json beside it."""
        path.write_text(self.markdown(), encoding="utf-8")
        path.with_suffix(".json").write_text(json.dumps(self._content(), indent=1) + "\n", encoding="utf-8")

    def markdown(self) -> str:
        """The tables as Markdown, after a line about the machine."""
        machine = self.machine
        memory = f"{machine['memory_bytes'] / (1 << 30):.0f} GiB"
        head = f"{machine['cpu']}, {machine['cores']} cores, {memory}; commit {machine['commit'][:12]}"
        parts = [head, f"`{machine['command']}`"]
        for contest in self.contests:
            parts += [f"### {contest.title}", _table(_times(contest, self.works, self.rounds))]
        reached = _reached(self.contests, self.rounds)
        parts += ["### What is reached", _table(reached), _at_best(self.peaks)]
        parts += ["### Marks", _table(_marks(marks(self.rounds)))]
        parts += [f"Broke down: {b.contestant} at {b.work} ({b.contest})." for b in self.rounds.breakdowns]
        return "\n\n".join(parts) + "\n"

    def _content(self) -> dict[str, Any]:
        names = {contest.name: [c.name for c in contest.contestants] for contest in self.contests}
        return {
            "machine": self.machine,
            "peaks": asdict(self.peaks),
            "works": [asdict(work) for work in self.works],
            "medians_s": {
                contest: {
                    work.name: {who: self.rounds.seconds(contest, who, work.name) for who in contestants}
                    for work in self.works
                }
                for contest, contestants in names.items()
            },
            "reached": {
                contest: {who: utilisation(self.rounds, contest, who) for who in contestants}
                for contest, contestants in names.items()
            },
            "marks": [asdict(mark) | {"met": mark.met} for mark in marks(self.rounds)],
            "breakdowns": [asdict(breakdown) for breakdown in self.rounds.breakdowns],
            "measurements": [asdict(measurement) for measurement in self.rounds.measurements],
        }


def _times(contest: Contest, works: Sequence[Work], rounds: Rounds) -> Rows:
    """Median seconds, and their ratio to the first contestant's."""
    names = [contestant.name for contestant in contest.contestants]
    rows = [["work, s", *names]]
    for work in works:
        times = [rounds.seconds(contest.name, name, work.name) for name in names]
        if work.name in UNIT_WORKS or not any(times):
            continue
        rows.append([work.title, *(_time(seconds, times[0]) for seconds in times)])
    return rows


def _time(seconds: float | None, first: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.2f}" if first is None else f"{seconds:.2f} ({seconds / first:.2f} ×)"


def _reached(contests: Sequence[Contest], rounds: Rounds) -> Rows:
    rows = [["", "prefill, GFLOP/s", "decode of 1, tokens/s", "GB/s", "decode of 8, tokens/s", "GB/s"]]
    keys = (
        ("prefill_flop_per_s", GIGA),
        ("decode_1_tokens_per_s", 1),
        ("decode_1_bytes_per_s", GIGA),
        ("decode_8_tokens_per_s", 1),
        ("decode_8_bytes_per_s", GIGA),
    )
    for contest in contests:
        for contestant in contest.contestants:
            found = utilisation(rounds, contest.name, contestant.name)
            cells = [f"{found[key] / unit:.1f}" if key in found else "–" for key, unit in keys]
            if found:
                rows.append([f"{contestant.name} ({contest.name})", *cells])
    return rows


def _at_best(peaks: Peaks) -> str:
    products = ", ".join(f"{kind} {flops / GIGA:.0f}" for kind, flops in peaks.gemm_flops.items())
    copies = f"copies {peaks.copy_bytes_per_s / GIGA:.1f} GB/s"
    return f"This machine at best, GFLOP/s of a matrix product: {products}; {copies}."


def _marks(found: Sequence[Mark]) -> Rows:
    rows = [["mark", "wanted", "measured", ""]]
    for mark in found:
        measured = "–" if mark.measured is None else f"{mark.measured:.3g}"
        met = {None: "not run", True: "met", False: "missed"}[mark.met]
        rows.append([mark.what, f"{mark.bound} {mark.wanted:g}", measured, met])
    return rows


def _table(rows: Rows) -> str:
    head, *body = rows
    lines = [head, ["---", *("---:" for _ in head[1:])], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
