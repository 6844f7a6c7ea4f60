"""CSV and TSV are opened in spreadsheets: no cell of theirs is a formula there, unless it was asked for."""

import csv
import json
import sys
from pathlib import Path

import pytest

from contract.answer import Answer
from producer.rows import Answered, AnsweredRow
from producer.sinks.kinds import open_sinks
from producer.sinks.sink import SinkOptions
from tests.producer.test_cli import ask_all, captionmill, photos
from tests.support.answered import record_in
from tests.support.processes import spawn

__all__ = ["photos"]

FORMULAS = [
    '=HYPERLINK("http://example.org", "x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "- a list",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1+1",
    "\u3000=1",
    "\ufeff=1",
    "\uff1d1+1",
    "\uff0b1",
    "=",
    "-",
    "+49 30 1234",
    "\ttab",
]
HARMLESS = ["", "a", "a=b", "A photo - of a dog", "-5", "+3.5", "-1.5e10", "7", "'", '"=1"', " a", "1-2", "ä"]


def row(text: str) -> AnsweredRow:
    outcome = Answer(
        text=text, finish_reason="stop", prompt_tokens=9, completion_tokens=3, score=-1, mean_log_prob=-1
    )
    return AnsweredRow(
        position=0,
        id=text,
        name=text,
        image=None,
        columns={text or "empty": text, "number": -5, "list": ["=1"]},
        model="m",
        answers=(Answered(question=text or "q", prompt=text, outcome=outcome),),
    )


def cells(folder: Path, kind: str, text: str, **options: bool) -> list[str]:
    """All cells of what is written for a row that says `text` wherever it can."""
    folder.mkdir(exist_ok=True)
    asked = SinkOptions(**options)  # type: ignore[arg-type]
    sink, failures = open_sinks([kind], folder, asked, lambda _: None, record_in(folder))
    for one in (sink, failures):
        one.resume(None)
        one.write([row(text)])
        one.finish(lambda: iter([row(text)]))
        one.close()
    with (folder / f"answers.{kind}").open(newline="") as file:
        return [cell for line in csv.reader(file, "excel-tab" if kind == "tsv" else "excel") for cell in line]


@pytest.mark.parametrize("long_table", [False, True])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_text(tmp_path: Path, text: str, kind: str, long_table: bool) -> None:
    written = cells(tmp_path, kind, text, long_table=long_table)
    assert text not in written
    assert written.count(f"'{text}") >= 4
    assert written.count("-5") == 1
    raw = cells(tmp_path / "raw", kind, text, long_table=long_table, raw_cells=True)
    assert [cell.removeprefix("'") if cell == f"'{text}" else cell for cell in written] == raw


@pytest.mark.parametrize("text", HARMLESS)
def test_other_cells_are_as_they_were(tmp_path: Path, text: str) -> None:
    assert cells(tmp_path, "csv", text) == cells(tmp_path / "raw", "csv", text, raw_cells=True)


def test_the_option(photos: Path, tmp_path: Path, redis_url: str) -> None:
    """Through the command: every formula in a column that is carried, and one in the answers."""
    log = tmp_path / "worker.log"
    rows = [json.dumps({"image": str(photos / "0.png"), "note": text}) for text in FORMULAS]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    worker = spawn([sys.executable, "-m", "bench.stub_worker", redis_url, "count"], log, {})
    try:
        for name, options, before in (("safe", (), "'"), ("raw", ("--raw-cells",), "")):
            sinks = ("--sink", "csv", "--sink", "tsv", *options)
            asked = ask_all(tmp_path / "rows.jsonl", tmp_path / name, redis_url, *sinks)
            asked[asked.index("What?")] = "=1"
            ran = captionmill("run", *asked)
            assert ran.returncode == 0, ran.stderr
            for kind, dialect in (("csv", "excel"), ("tsv", "excel-tab")):
                with (tmp_path / name / f"answers.{kind}").open(newline="") as file:
                    found = list(csv.DictReader(file, dialect=dialect))
                assert sorted(line["note"] for line in found) == sorted(before + text for text in FORMULAS)
                assert all(line["q1"].startswith(f"{before}=1") for line in found), found
    finally:
        worker.kill()
        worker.wait()
