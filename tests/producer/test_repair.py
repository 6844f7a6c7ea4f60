"""A damaged ledger: every command says so in a sentence, and `captionmill repair` makes it anew."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from contract.store import done_key
from producer.ledger import LEDGER
from producer.repair import DAMAGED, WORKSHOP
from producer.run_folder import SUBMISSION_FILE
from tests.producer.test_cli import ask_all, captionmill, events, photos, worker
from tests.support.producer_driver import lines, texts

__all__ = ["photos", "worker"]

PAGE = 4096


@pytest.fixture
def out(photos: Path, tmp_path: Path, redis_url: str, worker: None) -> Path:  # noqa: ARG001
    """A finished run."""
    folder = tmp_path / "runs" / "out"
    ran = captionmill("run", *ask_all(photos, folder, redis_url))
    assert ran.returncode == 0, ran.stderr
    return folder


def first_page_of(out: Path, table: str) -> int:
    with closing(sqlite3.connect(out / LEDGER)) as ledger:
        page: int = ledger.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()[
            0
        ]
        return page


def zero(out: Path, page: int) -> None:
    with (out / LEDGER).open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(bytes(PAGE))


def zeroed(table: str) -> Callable[[Path], None]:
    return lambda out: zero(out, first_page_of(out, table))


def emptied(out: Path) -> None:
    (out / LEDGER).write_bytes(b"")


def made_nonsense(out: Path) -> None:
    with closing(sqlite3.connect(out / LEDGER)) as ledger, ledger:
        ledger.execute("UPDATE ask SET outcome = '{}'")
        ledger.execute("UPDATE state SET value = '{\"x\": 1}' WHERE name = 'submission'")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "first page": lambda out: zero(out, 1),
    **{table: zeroed(table) for table in ("state", "row", "question", "ask", "job", "output", "row_seq")},
    "empty": emptied,
    "nonsense": made_nonsense,
}


def commands(out: Path, photos: Path, redis_url: str) -> list[list[str]]:
    server = ["--redis", redis_url]
    return [
        ["status", str(out)],
        ["watch", str(out)],
        ["list", str(out.parent)],
        ["run", "--resume", "--out", str(out), *server],
        ["run", *ask_all(photos, out, redis_url)],
        ["retry", str(out), *server],
        ["cancel", str(out), *server],
        ["collect", str(out), *server],
    ]


@pytest.mark.parametrize("damage", ["first page", "row"])
def test_every_command_says_so_in_a_sentence(damage: str, out: Path, photos: Path, redis_url: str) -> None:
    DAMAGES[damage](out)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".jsonl"}
    for command in commands(out, photos, redis_url):
        ran = captionmill(*command)
        said = ran.stderr + ran.stdout
        assert ran.returncode == 2, (command, said)
        assert "Traceback" not in said
        if command[0] != "list":
            assert ran.stderr.startswith(f"captionmill: The ledger of {out} is damaged ("), command
            assert ran.stderr.endswith(f"captionmill repair {out}\n"), command
            assert ran.stderr.count("\n") == 1
        else:
            assert "damaged" in said
    assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".jsonl"}


def test_a_damaged_ledger_hides_no_other_run(out: Path) -> None:
    shutil.copytree(out, out.parent / "zz other")
    DAMAGES["first page"](out)
    ran = captionmill("list", out.parent, "--json")
    assert ran.returncode == 2
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [("error" in one) for one in found] == [True, False]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_repaired_run_keeps_its_answers(damage: str, out: Path, redis_url: str) -> None:
    answers = texts(out)
    DAMAGES[damage](out)
    assert captionmill("status", out).returncode == 2
    made = captionmill("repair", out)
    assert made.returncode == 0, made.stderr
    assert f"captionmill run --resume --out {out}" in made.stdout
    words: list[str | Path] = ["run", "--resume", "--out", out, "--redis", redis_url, "--json"]
    if damage in ("first page", "empty", "output"):
        named = ", ".join(
            str(out / name) for name in ("contact_sheet.html", "answers.jsonl", "failures.jsonl")
        )
        refused = captionmill(*words)
        assert (refused.returncode, "--overwrite" in refused.stderr) == (2, True)
        assert f"as the run wrote them: {named}." in made.stdout
        words.append("--overwrite")
    again = captionmill(*words)
    assert again.returncode == 0, again.stderr
    assert events(again, "summary")[0]["jobs_sent"] == 0, "the answers on disk are known"
    assert texts(out) == answers
    assert (out / DAMAGED).exists()
    assert captionmill("repair", out).stdout == f"The ledger of {out} is whole; nothing was changed.\n"


def test_what_no_file_tells_is_asked_again(out: Path, redis_url: str) -> None:
    answers = texts(out)
    zero(out, first_page_of(out, "ask"))
    whole = (out / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (out / "answers.jsonl").write_bytes(b"".join(whole[:2]) + b"no JSON\n" + whole[3][:20] + b"\n" + whole[4])
    made = captionmill("repair", out, "--json")
    found = events(made, "repaired")[0]
    assert (found["from_files"], found["unknown_outputs"]) == (3, [str(out / "answers.jsonl")])
    again = captionmill("run", "--resume", "--overwrite", "--out", out, "--redis", redis_url, "--json")
    assert events(again, "summary")[0]["jobs_sent"] == len(answers) - 3
    assert texts(out).keys() == answers.keys()


def test_the_damaged_ledger_tells_what_no_file_does(out: Path, redis_url: str) -> None:
    """As where the answers are written as CSV alone."""
    (out / "answers.jsonl").unlink()
    zero(out, first_page_of(out, "row"))
    made = captionmill("repair", out, "--json")
    found = events(made, "repaired")[0]
    assert (found["rows"], found["from_ledger"], found["from_files"]) == (7, 7, 0)
    again = captionmill("run", "--resume", "--out", out, "--redis", redis_url, "--json")
    assert events(again, "summary")[0]["jobs_sent"] == 0
    assert len(lines(out)) == 7


@pytest.mark.usefixtures("worker")
def test_one_bad_page_costs_its_own_answers_alone(images: Path, tmp_path: Path, redis_url: str) -> None:
    """What lies behind it in the ledger is read, too."""
    for number in range(120):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(images / f"{number:03}.png")
    out = tmp_path / "out"
    assert captionmill("run", *ask_all(images, out, redis_url)).returncode == 0
    (out / "answers.jsonl").unlink()
    content = (out / LEDGER).read_bytes()
    pages = range(1, len(content) // PAGE + 1)
    leaves = [one for one in pages if content[(one - 1) * PAGE] == 13]
    with_answers = [one for one in leaves if content[(one - 1) * PAGE : one * PAGE].count(b'"answer"') > 3]
    assert len(with_answers) > 6
    zero(out, with_answers[2])
    zero(out, first_page_of(out, "row"))  # seen when the ledger is opened
    found = events(captionmill("repair", out, "--json"), "repaired")[0]
    assert found["rows"] == 120
    assert 80 < found["from_ledger"] < 120


def test_what_the_run_had_in_the_store_is_freed(out: Path, redis_url: str, connection: redis.Redis) -> None:
    run = json.loads(captionmill("status", out, "--json").stdout)["run"]
    assert connection.exists(done_key(run))
    zero(out, first_page_of(out, "row"))
    captionmill("repair", out)
    captionmill("run", "--resume", "--out", out, "--redis", redis_url)
    assert not connection.exists(done_key(run))


def test_a_repair_that_cannot_be_made_changes_nothing(out: Path, photos: Path) -> None:
    zero(out, first_page_of(out, "row"))
    photos.rename(photos.with_name("elsewhere"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    ran = captionmill("repair", out)
    assert ran.returncode == 2
    assert ran.stderr == f"captionmill: There is no folder or file {photos}.\n"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not (out / WORKSHOP).exists()


def test_a_folder_that_tells_nothing(out: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    ran = captionmill("repair", empty)
    assert (ran.returncode, ran.stderr) == (2, f"captionmill: {empty} holds no run.\n")
    assert list(empty.iterdir()) == []
    zero(out, 1)
    (out / SUBMISSION_FILE).unlink()
    ran = captionmill("repair", out)
    assert ran.returncode == 2
    assert "has lost what it was asked" in ran.stderr


@pytest.mark.usefixtures("worker")
def test_rows_that_could_not_be_asked_are_repaired_too(photos: Path, tmp_path: Path, redis_url: str) -> None:
    rows = [{"image": str(photos / "0.png"), "what": "red"}, {"image": str(photos / "0.png")}]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, []]))
    options = ("--question", "Is it {what}?", "--bad-rows", "skip", "--redis", redis_url)
    out = tmp_path / "out"
    ran = captionmill("run", tmp_path / "rows.jsonl", "--out", out, *options)
    assert ran.returncode == 1, ran.stderr
    zero(out, first_page_of(out, "row"))
    ran = captionmill("repair", out)
    assert ran.returncode == 0, ran.stderr
    assert sorted(line["id"] for line in lines(out)) == ["1", "2", "line 3"]


def submission_of(out: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((out / SUBMISSION_FILE).read_text())
    return read


def test_a_folder_of_an_earlier_release_has_its_submission_in_the_ledger_alone(out: Path) -> None:
    assert submission_of(out)["sources"]
    (out / SUBMISSION_FILE).unlink()
    zero(out, first_page_of(out, "row"))
    assert captionmill("repair", out).returncode == 0
    assert submission_of(out)["sources"]
