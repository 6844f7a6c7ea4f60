"""Files of this trade through the command: every row found, failed or told of, none lost in silence."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner

from captionmill.cli import app
from captionmill.local_site import passing_folder
from producer.rows import Embedded
from producer.sources import BadRows, SourceError, open_source
from producer.sources.shards import OPEN_SAMPLES
from producer.submission import Submission
from tests.producer.trade_files import (
    CASES,
    EMBEDDED,
    HELPS,
    PNG,
    Case,
    Write,
    lines,
    link,
    parquet,
    picture,
    tar,
    zipped,
)
from tests.support.processes import ROOT

PROPOSAL: Final = re.compile(r"(--(?!question)[a-z-]+)(?: \w+)?(?: (--[a-z-]+))?")
"""One or two options in a message, each with its value."""


def write(case: Case, folder: Path) -> None:
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)


def image(job: dict[str, Any], folder: Path) -> str | None:
    found = job["image"]
    if found is None:
        return None
    return str(Path(found["path"]).relative_to(folder)) if found["kind"] == "path" else EMBEDDED


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option that a message proposes helps."""
    write(case, tmp_path)
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["run", *case.run, "--dry-run", "--json"])
    assert ran.exit_code == case.code, ran.output
    jobs = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"event": "job"')]
    assert {job["id"]: image(job, tmp_path) for job in jobs} == case.rows, ran.output
    for piece in case.told:
        assert piece in ran.output, ran.output
    for proposal in PROPOSAL.finditer(ran.output):
        values = [(option, {**HELPS, **case.helps}[option]) for option in proposal.groups() if option]
        words = [word for option, found in values if found is not None for word in (option, *found)]
        if words:
            again = CliRunner().invoke(app, ["run", *case.run, *words, "--dry-run", "--json"])
            assert again.exit_code == 0, again.output
            assert proposal[0] not in again.output


def test_they_are_answered(tmp_path: Path) -> None:
    """In one run of all forms: workers read what the cases find, and what is skipped is a failure."""
    files: dict[str, bytes | Write] = {
        "t/rows.csv": "image;frage\nnested\\a.png;How many?\n".encode("utf-16"),
        "t/nested/a.png": picture(1),
        "s/s.tar": tar(("a.png", picture(2)), ("b.png", picture(3)), ("a.txt", b"x"), ("b.txt", b"y")),
        "z/set.zip": zipped(("a.png", picture(4)), ("metadata.csv", b"file_name,alt\na.png,A\n")),
        "f/photo": picture(5),
        "f/b.jfif": picture(6),
        "f/@eaDir/b.png": picture(7),
        "f/loop.png": link("loop.png"),
        "j/rows.jsonl": lines({"image": "a.png"}) + b"{\n" + lines({"image": "a.png", "id": "1"}),
        "j/a.png": picture(8),
        "p/00000.parquet": parquet(
            url=["https://x.example/a", "https://x.example/b"],
            status=["success", "failed_to_download"],
            error_message=[None, "HTTP Error 404"],
            jpg=[picture(9), None],
        ),
    }
    write(Case("all", "", (), files), tmp_path)
    sources = ["t/rows.csv", "s/s.tar", "z/set.zip", "f", "j/rows.jsonl", "p/00000.parquet"]
    command = [sys.executable, "-m", "captionmill", "run", *sources, "--model", "demo", "--out", "out"]
    options = ["--json", "--sniff", "--bad-rows", "skip", "--question", "How many?", "--max-new-tokens", "4"]
    ran = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr[-3000:]
    records = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    outcomes = {
        record["id"]: record["answers"][0].get("failure", {}).get("message", "") for record in records
    }
    answered = {row for row, message in outcomes.items() if not message}
    assert answered == {
        *("t/rows.csv/2", "s/s.tar/a", "s/s.tar/b", "z/set.zip/a.png", "f/photo", "f/b.jfif"),
        *("j/rows.jsonl/1", "p/00000.parquet/1"),
    }
    assert set(outcomes) - answered == {
        "j/rows.jsonl/line 2",
        "j/rows.jsonl/1 (row 10)",
        "p/00000.parquet/2",
        "f/loop.png",
    }
    assert "loop.png cannot be read: Too many levels of symbolic links" in outcomes["f/loop.png"]
    assert "rows.jsonl, line 2: not JSON" in outcomes["j/rows.jsonl/line 2"]
    assert 'line 3: the id "j/rows.jsonl/1" is that of an earlier row' in outcomes["j/rows.jsonl/1 (row 10)"]
    assert outcomes["p/00000.parquet/2"] == (
        "img2dataset has not downloaded https://x.example/b: failed_to_download: HTTP Error 404."
    )


def test_metadata_that_the_run_writes_is_not_read(tmp_path: Path) -> None:
    files = {"a.png": PNG, "metadata.jsonl": lines({"file_name": "a.png", "text": "an answer"})}
    write(Case("", "", (), files), tmp_path)

    def columns(sink: str) -> dict[str, Any]:
        (row,) = Submission(sources=(str(tmp_path),), sinks=(sink,)).open().rows()
        assert row.id == "a.png"
        return dict(row.columns)

    assert columns("jsonl") == columns("hf:/elsewhere/metadata.jsonl") == {"text": "an answer"}
    assert columns("hf") == columns(f"hf:{tmp_path}/metadata.jsonl") == {}


def test_a_shard_whose_members_lie_too_far_apart_is_told_as_such(tmp_path: Path) -> None:
    members = [(f"{number:05d}.png", b"x") for number in range(OPEN_SAMPLES + 1)]
    tar(*members, ("00000.txt", b"late"))(tmp_path / "s.tar")
    ran = CliRunner().invoke(app, ["run", str(tmp_path / "s.tar"), "--dry-run"])
    assert ran.exit_code == 2
    assert "sample 00000: its members lie more than 20000 samples apart; sort" in ran.output


def test_a_damaged_member_of_a_zip_is_left_to_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    zipped(("a.png", PNG), ("b.png", PNG))(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT")] ^= 0xFF
    path.write_bytes(content)
    source = open_source(str(path))
    first, second = source.rows()
    assert isinstance(first.image, Embedded)
    assert isinstance(second.image, Embedded)
    assert source.read(first.image.place) != PNG
    assert source.read(second.image.place) == PNG


def test_many_bad_rows_are_counted_and_twenty_listed(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines({"image": "a.png"}) + b"x\n" * 90 + b"[]\n" * 10)
    bad = BadRows("refuse")
    assert len(list(open_source(str(tmp_path / "rows.jsonl")).rows(bad))) == 1
    with pytest.raises(SourceError) as refused:
        bad.require_none()
    told = str(refused.value).splitlines()
    assert told[0].startswith("100 rows cannot be asked: 90 × not JSON; 10 × not a JSON object.")
    assert len(told) == 1 + 20 + 2
    assert told[21] == "  … and 80 more"


def test_a_command_keeps_its_passing_folder_while_another_tidies_up(tmp_path: Path) -> None:
    tidies = f"from captionmill.local_site import *\nwith passing_folder(Path({str(tmp_path)!r})): pass"
    with passing_folder(tmp_path) as mine:
        subprocess.run([sys.executable, "-c", tidies], cwd=ROOT, check=True)
        assert mine.is_dir()
    assert not mine.exists()


def test_several_images_of_a_line_of_metadata_are_no_rows_of_their_own(tmp_path: Path) -> None:
    metadata = lines({"images": ["a.png", "b.png"], "question": "Same?"})
    write(Case("", "", (), {"a.png": PNG, "b.png": PNG, "c.png": PNG, "metadata.jsonl": metadata}), tmp_path)
    assert [(row.id, len(row.images)) for row in open_source(str(tmp_path)).rows()] == [
        ("a.png", 2),
        ("c.png", 1),
    ]
    zipped(("a.png", PNG), ("b.png", PNG), ("metadata.jsonl", metadata))(tmp_path / "set.zip")
    with pytest.raises(SourceError, match=r"line 1: a row with several images has them in a folder"):
        list(open_source(str(tmp_path / "set.zip")).rows())
