"""Local mode as a newcomer uses it: no server is named, and nothing is left behind however it ends."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from captionmill.local_site import SiteError, core_shares
from demo.samples import IMAGES, MODEL_FOLDER
from producer.run_folder import RunFolder
from tests.support.family import alive, descendants, listening_ports, listens, wait_for

PICTURES = 40
ALL = 200
HEIC = 4
BROKEN = 5


def environment(cache: Path, **changes: str) -> dict[str, str]:
    """Without a server, and with a cache folder of the test's own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CAPTIONMILL_")}
    return {**inherited, "XDG_CACHE_HOME": str(cache), **changes}


class Newcomer:
    """Types commands in a folder of their own, which has a worker.py and a demo folder too."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.photos = home / "photos"
        self._environment = environment(home / "cache", HOME=str(home))
        (home / "worker.py").write_text("raise SystemExit('this is the wrong worker')\n")
        (home / "demo").mkdir()
        (home / "demo" / "__init__.py").write_text("raise SystemExit('this is the wrong demo')\n")

    def start(self, *words: str | Path, **changes: str) -> subprocess.Popen[str]:
        # As the installed command, which does not look for modules where it is called.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "captionmill", *map(str, words)],
            cwd=self.home,
            env={**self._environment, **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def type(self, *words: str | Path, **changes: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        process = self.start(*words, **changes)
        out, err = process.communicate()
        assert "Traceback" not in err
        return process.returncode, out, err

    def draw(self, count: int) -> None:
        """So many different pictures, in nested folders."""
        samples = sorted(IMAGES.glob("*.png"))
        for number in range(count):
            folder = self.photos / f"{number % 3}" / "more"
            folder.mkdir(parents=True, exist_ok=True)
            # What follows the end of a PNG changes its bytes and not its picture.
            content = samples[number % len(samples)].read_bytes() + number.to_bytes(2, "big")
            (folder / f"{number:03d}.png").write_bytes(content)

    def answers(self, out: str) -> dict[str, str]:
        lines = [json.loads(line) for line in (self.home / out / "answers.jsonl").read_text().splitlines()]
        assert len({line["id"] for line in lines}) == len(lines)
        return {line["id"]: line["answers"][0]["text"] for line in lines}

    def files(self) -> set[str]:
        """Of the home folder, but for those of the run and of the cache."""
        found = {path.relative_to(self.home).as_posix() for path in self.home.rglob("*")}
        return {name for name in found if not name.startswith(("out", "cache", "photos"))}


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    made = Newcomer(tmp_path)
    made.draw(PICTURES)
    return made


RUN = ("run", "photos", "--recursive", "--model", MODEL_FOLDER, "--out", "out")


def test_a_folder_is_captioned_by_one_command(newcomer: Newcomer) -> None:
    before = newcomer.files()
    code, said, warned = newcomer.type("run", "photos/0", "--recursive", "--model", MODEL_FOLDER)
    assert code == 0, said + warned
    assert 'No --question is given, so this is asked of 14 images: "Describe the image."' in said
    assert "The run's folder is 0-answers (--out names another one)." in said
    (line,) = [one for one in said.splitlines() if one.startswith("No server is named")]
    assert "1 worker on CPU" in line
    assert "For a server of yours: --redis URL." in line
    answers = newcomer.answers("0-answers")
    assert len(answers) == len(list((newcomer.photos / "0").rglob("*.png")))
    assert all("background" in text for text in answers.values())
    assert {name.split("/")[0] for name in newcomer.files() - before} == {"0-answers"}
    assert not (newcomer.home / "0-answers" / ".local" / "appendonlydir").exists()


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """Send a signal, and see that nothing of the command's site is left. Returns exit code and stderr."""
    children = descendants(process.pid)
    ports = [port for child in children for port in listening_ports(child)]
    os.kill(process.pid, number)
    _, said = process.communicate()
    wait_for(lambda: not any(alive(child) for child in children), "its processes are gone")
    wait_for(lambda: not any(listens(port) for port in ports), "its ports are free")
    return process.returncode, said


@pytest.mark.parametrize("moment", ["server", "worker", "answers"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on(newcomer: Newcomer, number: signal.Signals, moment: str) -> None:
    before = newcomer.files()
    running = newcomer.start(*RUN)
    moments = {
        "server": lambda: len(descendants(running.pid)) >= 1,
        "worker": lambda: len(descendants(running.pid)) >= 2,
        "answers": lambda: _complete_rows(newcomer.home / "out") > 0,
    }
    wait_for(moments[moment], f"there is a {moment}")
    code, said = ended(running, number)
    if number != signal.SIGKILL:
        assert code == 130
        assert "Stopped" in said
    done = _complete_rows(newcomer.home / "out")
    if moment == "answers" and number != signal.SIGKILL:
        assert f"{done} of {PICTURES} rows are answered and kept in out" in said
        assert "go on with: captionmill run --resume --out out" in said
    code, told, warned = newcomer.type("run", "--resume", "--out", "out")
    assert code == 0, told + warned
    assert len(newcomer.answers("out")) == PICTURES
    assert newcomer.files() == before
    assert list((newcomer.home / "cache").rglob("*")) == []


@pytest.mark.parametrize("model", ["openvino", "checkpoint"])
def test_a_folder_as_people_have_them(newcomer: Newcomer, model: str) -> None:
    """200 pictures in folders, HEIC and broken ones and other files; stopped by Ctrl-C, then killed."""
    newcomer.draw(ALL - HEIC - BROKEN)
    register_heif_opener()
    for number in range(HEIC):
        with Image.open(IMAGES / "01-square.png") as picture:
            picture.rotate(number).save(newcomer.photos / f"phone-{number}.heic")
    for number in range(BROKEN):
        (newcomer.photos / "1" / f"broken-{number}.jpg").write_text("no picture")
    (newcomer.photos / "1" / "notes.txt").write_text("Mine.")
    (newcomer.photos / "2" / "film.mp4").write_bytes(b"")
    before = newcomer.files()
    checkpoint = MODEL_FOLDER.parent / model
    command: tuple[str | Path, ...] = (*RUN[:3], "--model", checkpoint, "--out", "out")
    done = 0
    for number in (signal.SIGINT, signal.SIGKILL):
        running = newcomer.start(*command)
        wait_for(lambda: _complete_rows(newcomer.home / "out") > done, "there are more answers")  # noqa: B023
        ended(running, number)
        done = _complete_rows(newcomer.home / "out")
        assert done < ALL
        command = ("run", "--resume", "--out", "out")
    code, said, warned = newcomer.type(*command)
    assert code == 1, said + warned
    assert f"{ALL} images: {ALL - BROKEN} questions answered, {BROKEN} failed." in said
    assert f"{BROKEN}  not_an_image" in said
    assert "2 files skipped: 1 .mp4, 1 .txt" in said
    rows = [json.loads(line) for line in (newcomer.home / "out" / "answers.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) == ALL
    assert newcomer.files() == before
    kept = [path.name for path in (newcomer.home / "cache").glob("captionmill/*")]
    assert kept == ([] if model == "openvino" else ["models"])


def _complete_rows(out: Path) -> int:
    if not (out / "answers.jsonl").exists():
        return 0
    folder = RunFolder(out, read_only=True)
    try:
        return folder.ledger.complete_rows()
    finally:
        folder.close()


def test_a_worker_that_dies_is_started_again(newcomer: Newcomer) -> None:
    running = newcomer.start(*RUN)
    wait_for(lambda: _complete_rows(newcomer.home / "out") > 0, "there are answers")
    (worker,) = [one for one in descendants(running.pid) if not listening_ports(one)]
    os.kill(worker, signal.SIGKILL)
    said, warned = running.communicate()
    assert running.returncode == 0, said + warned
    assert len(newcomer.answers("out")) == PICTURES


def test_a_server_that_dies_ends_the_run_with_a_sentence(newcomer: Newcomer) -> None:
    running = newcomer.start(*RUN)
    wait_for(lambda: _complete_rows(newcomer.home / "out") > 0, "there are answers")
    (server,) = [one for one in descendants(running.pid) if listening_ports(one)]
    os.kill(server, signal.SIGKILL)
    said, warned = running.communicate()
    assert running.returncode == 2, said + warned
    assert "The embedded Valkey server has ended" in warned
    assert "captionmill run --resume --out out" in warned
    code, said, warned = newcomer.type("run", "--resume", "--out", "out")
    assert code == 0, said + warned
    assert len(newcomer.answers("out")) == PICTURES


def test_a_worker_that_cannot_start_says_why(newcomer: Newcomer) -> None:
    code, _, said = newcomer.type(*RUN, CAPTIONMILL_KV_CACHE_BYTES="nothing")
    assert code == 2
    assert "The worker cannot start" in said
    assert "CAPTIONMILL_KV_CACHE_BYTES" in said
    assert "out/.local/worker-1.log" in said
    code, _, again = newcomer.type("run", "--resume", "--out", "out", CAPTIONMILL_MAX_ROWS="none")
    assert code == 2
    assert "CAPTIONMILL_MAX_ROWS" in again
    assert "CAPTIONMILL_KV_CACHE_BYTES" not in again


def test_two_commands_do_not_work_in_one_folder(newcomer: Newcomer) -> None:
    running = newcomer.start(*RUN)
    wait_for(lambda: len(descendants(running.pid)) >= 2, "there is a worker")
    code, _, said = newcomer.type("run", "--resume", "--out", "out")
    assert code == 2
    assert "Another captionmill command is at work in" in said
    assert running.wait() == 0
    running.communicate()


def test_two_workers_share_the_cores(newcomer: Newcomer) -> None:
    running = newcomer.start(*RUN, "--workers", "2", "--device", "CPU")
    wait_for(lambda: len(descendants(running.pid)) >= 3, "there are two workers")
    workers = [one for one in descendants(running.pid) if not listening_ports(one)]
    shares = [os.sched_getaffinity(one) for one in workers]
    said, warned = running.communicate()
    assert running.returncode == 0, said + warned
    assert "2 workers on CPU" in said
    assert set.union(*shares) == os.sched_getaffinity(0)
    assert not set.intersection(*shares)


def test_shares_of_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))

    def shares(count: int, *devices: str) -> list[int]:
        return [len(share) for share in core_shares(count, devices)]

    assert shares(1, "CPU") == [cores]
    assert sum(shares(cores, "CPU")) == cores
    assert shares(2, "CPU", "GPU") == [cores, cores]
    assert shares(2, "GPU.0", "GPU.1") == [cores, cores]
    with pytest.raises(SiteError, match=f"--workers {cores + 1} is too many"):
        shares(cores + 1, "CPU")


def test_questions_estimates_and_retries_need_no_server(newcomer: Newcomer) -> None:
    before = newcomer.files()
    model = ("--model", MODEL_FOLDER)
    code, said, warned = newcomer.type("ask", IMAGES / "01-square.png", "Describe the image.", *model)
    assert code == 0, warned
    assert "background" in said
    assert "No server is named" not in said
    assert "No server is named" in warned
    code, said, warned = newcomer.type("estimate", "photos", "--recursive", "--sample", "8", *model)
    assert code == 0, said + warned
    assert "8 of 40 rows took" in said
    assert newcomer.files() == before
    assert [path.name for path in (newcomer.home / "cache" / "captionmill" / "local").iterdir()] == ["lock"]

    (newcomer.photos / "bad.png").write_text("no picture")
    code, said, warned = newcomer.type(*RUN)
    assert code == 1, said + warned
    code, said, warned = newcomer.type("retry", "out")
    assert code == 1, said + warned
    assert "1 failed question is asked again." in said


def test_what_a_killed_command_left_in_the_cache_is_removed_by_the_next(newcomer: Newcomer) -> None:
    asking = newcomer.start("ask", IMAGES / "01-square.png", "Describe the image.", "--model", MODEL_FOLDER)
    wait_for(lambda: len(descendants(asking.pid)) >= 2, "there is a worker")
    ended(asking, signal.SIGKILL)
    local = newcomer.home / "cache" / "captionmill" / "local"
    (left,) = filter(Path.is_dir, local.iterdir())
    newcomer.type("ask", IMAGES / "01-square.png", "Describe the image.", "--model", MODEL_FOLDER)
    assert not left.exists()


def test_a_cancelled_run_goes_on(newcomer: Newcomer) -> None:
    running = newcomer.start(*RUN)
    wait_for(lambda: _complete_rows(newcomer.home / "out") > 0, "there are answers")
    ended(running, signal.SIGKILL)
    code, said, warned = newcomer.type("cancel", "out")
    assert code == 0, warned
    assert re.search(r"\d+ jobs withdrawn; answers so far are kept", said)
    code, said, warned = newcomer.type("run", "--resume", "--out", "out")
    assert code == 0, said + warned
    assert len(newcomer.answers("out")) == PICTURES


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "photos", "--recursive"), "Which model shall answer? Name one with --model"),
        ((*RUN, "--redis", "redis://127.0.0.1:1/0", "--workers", "2"), "--workers is for the workers"),
        ((*RUN, "--redis", "redis://127.0.0.1:1/0", "--device", "GPU"), "--device is for the workers"),
        ((*RUN, "--device", "TPU"), "TPU"),
        ((*RUN, "--workers", "1000"), "--workers 1000 is too many"),
    ],
)
def test_refused(newcomer: Newcomer, words: tuple[str, ...], sentence: str) -> None:
    code, _, said = newcomer.type(*words)
    assert code == 2
    assert sentence in said
