"""`python -m tests.faults.table`: the latest results of all scenarios, into docs/reliability.md."""

from pathlib import Path
from typing import Any, Final

from tests.faults.result import kept
from tests.support.processes import ROOT

PAGE: Final = ROOT / "docs" / "reliability.md"
BEGIN: Final = "<!-- faults: begin -->\n"
END: Final = "<!-- faults: end -->\n"
HEAD: Final = (
    "| Scenario | Waits | Jobs | Lost | Visible twice | Foreign | Executed again | Recovered, s | And |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|---|\n"
)


def row(found: dict[str, Any]) -> str:
    recover_s = "" if found["recover_s"] is None else f"{found['recover_s']:.1f}"
    failed = ", ".join(f"{count} {code}" for code, count in sorted(found["failed"].items()))
    remark = "; ".join(part for part in (found["note"], failed) if part)
    figures = (found[name] for name in ("jobs", "lost", "twice", "foreign", "executed_again"))
    cells = (
        found["name"],
        found.get("waits", "short"),
        *("–" if figure is None else f"{figure:,}" for figure in figures),
        recover_s,
        remark,
    )
    return f"| {' | '.join(cells)} |\n"


def fill(page: Path, results: dict[str, dict[str, Any]]) -> None:
    """Put the table between the page's two marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    table = HEAD + "".join(row(found) for _, found in sorted(results.items()))
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


if __name__ == "__main__":
    found = kept()
    fill(PAGE, found)
    print(f"{len(found)} scenarios in {PAGE.relative_to(ROOT)}")
