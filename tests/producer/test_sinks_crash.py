"""Sinks killed at any line go on to the same bytes as sinks that nobody disturbed."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from producer.ledger import Ledger
from producer.outputs import refuse_changed
from producer.rows import AnsweredRow
from producer.sinks.kinds import open_sinks
from producer.sinks.output_record import OutputRecord
from producer.sinks.sidecar import EDITED
from producer.sinks.sink import Sink, SinkError, SinkOptions
from tests.support.answered import answered_row, failure, read_path

ROWS = 7
KILLED = -signal.SIGKILL
OPTIONS = SinkOptions(samples_per_shard=2)
KINDS_FILE = {"jsonl": "answers.jsonl", "csv": "answers.csv", "openai": "openai_output.jsonl"}
GROWING = ["jsonl", "failures", "csv", "tsv", "openai", "webdataset", "sidecar"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Some have a sidecar of somebody else's already."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(ROWS):
        (folder / f"{number} é.jpg").write_bytes(b"\xff\xd8\xff" + bytes([number]) * 700)
        if number % 3 == 0:
            (folder / f"{number} é.txt").write_text("foreign", encoding="utf-8")
    return folder


def rows_of(images: Path, *, ragged: bool = False, long: bool = False) -> list[AnsweredRow]:
    """In an order of completion; `ragged`: later rows bring columns that earlier ones did not have.

    A `long` one has a megabyte.
    """
    rows = []
    for number, path in enumerate(sorted(images.glob("*.jpg"))):
        outcomes = ["one", failure()] if number == 2 else ["one, \n", "zwei"]
        outcomes = ["long" * 2**18] if long else outcomes
        columns = {"label": number, **({"late": True} if ragged and number > 3 else {})}
        rows.append(answered_row(number, *outcomes, image=path, name=path.name, columns=columns))
    return [rows[number] for number in (1, 0, 2, 4, 3, 6, 5)]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(("sidecars.sqlite", "ledger.sqlite"))
    }


def drive(
    kind: str, folder: Path, options: SinkOptions, *, batch: int, ragged: bool = False, long: bool = False
) -> Sink:
    """Go on from the place in the ledger to the end of the run."""
    rows = rows_of(folder / "images", ragged=ragged, long=long)
    with Ledger(folder / "run", create=True) as ledger:
        record = OutputRecord(ledger, folder / "run")
        done, place = ledger.state.get("test") or (0, None)
        sink = open_sinks([kind], folder / "run", options, read_path, record)[0]
        refuse_changed(sink.files())
        sink.resume(place)
        try:
            while done < len(rows):
                place = sink.write(rows[done : done + batch])
                done += batch
                with ledger.transaction():
                    ledger.state.set("test", [done, place])
                    record.flush()
            sink.finish(lambda: iter(sorted(rows, key=lambda row: row.position)))
        finally:
            sink.close()
            with ledger.transaction():
                record.flush()
    return sink


def begin_anew(folder: Path) -> None:
    """As planning does."""
    with Ledger(folder / "run") as ledger, ledger.transaction():
        ledger.state.set("test", None)


def state_of(folder: Path) -> Any:
    with Ledger(folder / "run") as ledger:
        return ledger.state.get("test")


def killed_at(line: int, *arguments: Any, **options: Any) -> tuple[int, int]:
    """Drive in a child that is killed at its n-th line of the sinks; its exit code and number of lines."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        passed = 0

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal passed
            if "producer/sinks" not in frame.f_code.co_filename:
                return None
            if event == "line":
                passed += 1
                if passed == line:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        code = 1
        try:
            sys.settrace(trace)
            drive(*arguments, **options)
            sys.settrace(None)
            os.write(writer, str(passed).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        lines = int(pipe.read() or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), lines


def kills(kind: str, images: Path, options: SinkOptions, count: int, **others: Any) -> Iterator[Path]:
    """Copies of the images' folder, killed at lines from the first to the last, and once not at all."""
    folder = images.parent
    pristine = folder.with_name(folder.name + " pristine")
    shutil.copytree(folder, pristine)
    _, lines = killed_at(0, kind, folder, options, **others)
    assert lines > 100
    for line in [*range(1, lines, max(1, lines // count)), 0]:
        shutil.rmtree(folder)
        shutil.copytree(pristine, folder)
        code, _ = killed_at(line, kind, folder, options, **others)
        assert code == (KILLED if line else 0)
        yield folder


@pytest.mark.parametrize(
    ("kind", "ragged"), [*((kind, False) for kind in GROWING), ("csv", True), ("tsv", True)]
)
def test_killed_at_any_line_and_resumed(
    images: Path, kind: str, ragged: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    options = SinkOptions(samples_per_shard=2, sidecar_policy="append")
    kept = tmp_path_factory.mktemp("kept") / "images"
    shutil.copytree(images, kept)
    drive(kind, images.parent, options, batch=1, ragged=ragged)
    expected = tree(images.parent)
    if kind == "sidecar":
        assert expected["images/0 é.txt"] == b"foreign\none, \n\nzwei\n"
    else:
        assert any(content for name, content in expected.items() if name.startswith("run/"))
    shutil.rmtree(images.parent / "run")
    shutil.rmtree(images)
    shutil.copytree(kept, images)
    for folder in kills(kind, images, options, 45, batch=3, ragged=ragged):
        drive(kind, folder, options, batch=2, ragged=ragged)
        assert tree(folder) == expected


@pytest.mark.parametrize("policy", ["skip", "overwrite", "append", "prepend"])
def test_an_edit_after_a_kill_survives(images: Path, policy: Any) -> None:
    options = SinkOptions(sidecar_policy=policy)
    edited = 0
    for folder in kills("sidecar", images, options, 25, batch=3):
        texts = {path: path.read_text() for path in (folder / "images").glob("*.txt")}
        ours = [path for path, text in texts.items() if text != "foreign"]
        for path in ours:
            path.write_text("edited")
        edited += len(ours)
        sink = drive("sidecar", folder, options, batch=2)
        assert {path.read_text() for path in ours} <= {"edited"}
        assert not list((folder / "images").glob(".*"))
        # Those before the ledger's place are not looked at again.
        assert sink.left_alone[EDITED] <= len(ours)
        begin_anew(folder)
        again = drive("sidecar", folder, options, batch=2)
        assert {path.read_text() for path in ours} <= {"edited"}
        assert again.left_alone[EDITED] == len(ours)
    assert edited > 20


@pytest.mark.parametrize("kind", [kind for kind in GROWING if kind != "sidecar"])
def test_output_that_was_lost_is_not_passed_over(images: Path, kind: str) -> None:
    drive(kind, images.parent, SinkOptions(), batch=2)
    for name in tree(images.parent / "run"):
        (images.parent / "run" / name).unlink()
    with pytest.raises(SinkError, match=r"put it back, or have all outputs written again with .*\.$"):
        drive(kind, images.parent, SinkOptions(), batch=2)
    assert tree(images.parent / "run") == {}


@pytest.mark.parametrize("kind", GROWING)
def test_a_new_run_replaces_the_output_of_the_one_before(images: Path, kind: str) -> None:
    drive(kind, images.parent, OPTIONS, batch=2)
    expected = tree(images.parent)
    begin_anew(images.parent)
    drive(kind, images.parent, OPTIONS, batch=3)
    assert tree(images.parent) == expected


@pytest.mark.parametrize("kind", ["jsonl", "csv", "openai"])
def test_a_change_of_what_was_noted_survives_a_kill(images: Path, kind: str) -> None:
    refused = 0
    for folder in kills(kind, images, OPTIONS, 8, batch=1):
        path = folder / "run" / KINDS_FILE[kind]
        done, place = state_of(folder) or (0, None)
        noted_bytes = 0 if place is None else place["bytes"] if kind == "csv" else place["bytes"][0]
        if not done or not noted_bytes:
            continue
        changed = b"#" + path.read_bytes()[1:] + b"a tail"
        path.write_bytes(changed)
        with pytest.raises(SinkError, match="was changed since this run wrote it"):
            drive(kind, folder, OPTIONS, batch=1)
        assert path.read_bytes() == changed
        refused += 1
    assert refused > 3


def test_a_full_disk_leaves_what_was_there(images: Path) -> None:
    """A limit on a file's size stands for the disk; the ledger stays below it."""
    child = os.fork()
    if child == 0:
        import resource

        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))
            try:
                drive("jsonl", images.parent, OPTIONS, batch=1, long=True)
            except OSError:
                code = 7
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    done, place = state_of(images.parent)
    assert (images.parent / "run" / "answers.jsonl").stat().st_size == place["bytes"][0]
    assert done == 2
    drive("jsonl", images.parent, OPTIONS, batch=1, long=True)
    lines = (images.parent / "run" / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [1, 0, 2, 4, 3, 6, 5]
