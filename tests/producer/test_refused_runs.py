"""A run that is refused leaves everything as it was: a folder that is new, one that is not, and a run's."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from PIL import Image

from producer.run_folder import RunFolder
from tests.producer.test_outputs_kept import tree
from tests.support.command import run_command
from tests.support.processes import PATIENCE_S, ROOT, spawn
from tests.support.workers import announce

AWAY = "redis://127.0.0.1:1/0"
MODEL = str(ROOT / "demo" / "model" / "openvino")
REFUSALS = {
    "no source": (["{work}/none"], "There is no folder or file"),
    "a bad line": (["{work}/bad.jsonl"], "line 2: not JSON"),
    "no rows": (["{work}/empty"], "no images"),
    "an id twice": (["{work}/twice.jsonl"], "of an earlier row"),
    "a question": (["{photos}", "--question", "Is {{colour}}?"], 'no column "colour"'),
    "a parameter": (["{photos}", "--length-penalty", "nan"], "--length-penalty"),
    "a form": (["{photos}", "--detail", "lo"], "is not low, high, auto or a number"),
    "a kind": (["{photos}", "--sink", "word"], 'no output "word"'),
    "a folder for a file": (["{photos}", "--sink", "csv:{photos}"], "is a folder"),
    "a file for a folder": (["{photos}", "--sink", "csv:{work}/file/a.csv"], "cannot be made"),
    "a read-only place": (["{photos}", "--sink", "csv:/proc/a.csv"], "Nothing can be written in /proc"),
    "somebody's file": (["{photos}", "--sink", "csv:{work}/file"], "not from this run"),
    "a picture": (["{photos}", "--sink", "csv:{photos}/a.png", "--overwrite"], "is read by the run"),
    "a manifest": (
        ["{work}/good.jsonl", "--sink", "csv:{work}/good.jsonl", "--overwrite"],
        "is read by the run",
    ),
    "a form for no folder": (["{work}/good.jsonl", "--sink", "hf"], "--sink hf:FOLDER/metadata.jsonl"),
    "another name": (
        ["{photos}", "--sink", "hf:{photos}/told.jsonl"],
        "beside images and no other name: give --sink hf:{photos}/metadata.jsonl",
    ),
    "no server": (["{photos}", "--redis", AWAY], "Nothing listens at"),
    "no URL": (["{photos}", "--redis", "http://127.0.0.1/"], "redis://"),
    "two models": (["{photos}", "--redis", "{server}"], "name one with --model"),
    "no model": (["{photos}", "--redis", ""], "Which model shall answer?"),
    "no model folder": (["{photos}", "--model", "{work}/none", "--redis", ""], "no name of a kept model"),
    "too many workers": (
        ["{photos}", "--model", MODEL, "--workers", "999", "--redis", ""],
        "--workers 999 is too many",
    ),
}


def captionmill(*arguments: str | Path, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command, or a script in its place. One that is not refused may wait for workers for ever."""
    if script is None:
        return run_command(*arguments, timeout=PATIENCE_S)
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Sources and files for the refusals."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "good.jsonl").write_text('{"image": "photos/a.png"}\n')
    (tmp_path / "bad.jsonl").write_text('{"image": "photos/a.png"}\n{"image": ')
    (tmp_path / "twice.jsonl").write_text('{"image": "a.png", "id": "1"}\n' * 2)
    return tmp_path


def given(options: list[str], work: Path, server: str, out: Path) -> list[str]:
    places = {"work": work, "photos": work / "photos", "server": server}
    filled = [one.format(**places) for one in options]
    if "--redis" not in filled:
        filled += ["--redis", server]
    elif filled[-1] == "":  # none is named, and local mode would begin
        filled = filled[:-2]
    # The run that was there before is of another source.
    return [*filled, "--question", "What?", "--add", "--out", str(out)]


def dump(out: Path) -> list[str]:
    """What a ledger says."""
    with RunFolder(out).ledger as ledger:
        return list(ledger._db.iterdump())


@pytest.fixture(scope="module")
def run_before(tmp_path_factory: pytest.TempPathFactory, server_url: str) -> Path:
    """The folder of a run that was finished."""
    folder = tmp_path_factory.mktemp("before")
    Image.new("RGB", (8, 8)).save(folder / "b.png")
    worker = spawn([sys.executable, "-m", "bench.stub_worker", f"{server_url}/0"], folder / "log", {})
    try:
        ran = captionmill(
            "run", folder, "--question", "Who?", "--redis", f"{server_url}/0", "--out", folder / "out"
        )
    finally:
        worker.kill()
        worker.wait()
    assert ran.returncode == 0, ran.stderr
    return folder / "out"


@pytest.mark.parametrize("refusal", REFUSALS)
def test_everything_is_as_it_was(
    run_before: Path, redis_url: str, connection: redis.Redis, work: Path, refusal: str
) -> None:
    options, sentence = REFUSALS[refusal]
    announce(connection, "one", "model 1")
    if refusal == "two models":
        announce(connection, "two", "model 2")
    keys = connection.keys()
    (work / "there").mkdir()
    (work / "there" / "notes.md").write_text("mine")
    shutil.copytree(run_before, work / "run")
    ledger = dump(work / "run")
    before = tree(work)
    for out in (work / "new" / "deep", work / "there", work / "run"):
        ran = captionmill("run", *given(options, work, redis_url, out))
        assert ran.returncode == 2, ran.stdout + ran.stderr
        assert sentence.format(photos=work / "photos") in ran.stderr.replace("\n", " ")
        assert "Traceback" not in ran.stderr
        assert tree(work) == before
    assert dump(work / "run") == ledger
    assert connection.keys() == keys


WITHOUT = """
import importlib.util, sys

class NotInstalled:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, NotInstalled)
from captionmill.cli import main
main()
"""


def test_a_package_that_a_sink_needs_is_missed_before_planning(redis_url: str, work: Path) -> None:
    before = tree(work)
    options = given(["{photos}", "--sink", "parquet"], work, redis_url, work / "out")
    ran = captionmill("run", *options, script=WITHOUT)
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith("captionmill: Parquet needs pyarrow, which is not installed: pip install")
    assert tree(work) == before


@pytest.mark.parametrize("command", ["run", "submit", "status", "watch", "collect", "retry", "cancel"])
def test_a_file_is_no_folder_of_a_run(redis_url: str, work: Path, command: str) -> None:
    for place in (work / "file", work / "file" / "below"):
        arguments: list[str | Path] = [place]
        if command in ("run", "submit"):
            arguments = [work / "photos", "--question", "What?", "--out", place]
        if command not in ("status", "watch"):
            arguments += ["--redis", redis_url]
        ran = captionmill(command, *arguments)
        assert ran.returncode == 2
        assert ran.stderr == (
            f"captionmill: {work / 'file'} is a file, not a folder: name a folder for the run instead.\n"
        )
    assert (work / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["ledger.sqlite", "collector.lock", "submission.json", "contact_sheet.html"])
def test_a_file_of_the_run_itself_is_no_output(redis_url: str, work: Path, name: str) -> None:
    options = given(["{photos}", "--sink", f"csv:{work / 'out' / name}"], work, redis_url, work / "out")
    ran = captionmill("run", *options)
    assert ran.returncode == 2
    assert "is a file of the run itself: name another one for csv." in ran.stderr
    assert not (work / "out").exists()


@pytest.mark.parametrize(("name", "reason"), [("none", "is not there"), ("file", "is a file, not a folder")])
def test_a_list_of_no_folder(work: Path, name: str, reason: str) -> None:
    ran = captionmill("list", work / name)
    assert ran.returncode == 2
    assert ran.stderr == (
        f"captionmill: {work / name} {reason}: name the folder that the runs' folders are in.\n"
    )


PLANNED = """
import os, signal, sys
from pathlib import Path
from producer.planning import plan_run
from producer.questions import read_prompts
from producer.submission import Submission

asked = Submission(sources=(sys.argv[1],), prompts=read_prompts(["Other?"], None, None))
source = asked.open()
rows = source.rows

def all_rows(*_):
    yield from rows()
    END

source.rows = all_rows
plan_run(Path(sys.argv[2]), asked, source)
"""
KILLED = PLANNED.replace("END", "os.kill(os.getpid(), signal.SIGKILL)")


def test_a_kill_while_planning_leaves_no_run_and_no_hindrance(run_before: Path, work: Path) -> None:
    shutil.copytree(run_before, work / "run")
    ledger = dump(work / "run")
    for name in ("run", "new"):
        command = [sys.executable, "-c", KILLED, str(work / "photos"), str(work / name)]
        killed = subprocess.run(command, cwd=ROOT, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert killed.returncode == -signal.SIGKILL
    assert dump(work / "run") == ledger
    ran = captionmill("status", work / "new")
    assert (ran.returncode, ran.stderr) == (2, f"captionmill: {work / 'new'} holds no run.\n")
    for left in (work / "new" / ".planning").iterdir():
        left.write_bytes(b"half a ledger" * 1000)
    submitted = PLANNED.replace("END", "pass")
    for name in ("run", "new"):
        command = [sys.executable, "-c", submitted, str(work / "photos"), str(work / name)]
        subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        ran = captionmill("status", work / name)
        assert ran.stdout.startswith("1 image: 0 of them complete")
        assert not (work / name / ".planning").exists()


def test_looking_at_a_run_changes_nothing(run_before: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(run_before, out)
    before = tree(tmp_path)
    for arguments in (("status", out), ("watch", out), ("list", tmp_path), ("run", "--resume", "--out", out)):
        ran = captionmill(*arguments)
        assert ran.returncode == 0, ran.stderr  # no model is named, and nothing is left to ask
        assert tree(tmp_path) == before
