"""The commonest first mistakes on a site: each ends in a sentence with the remedy, and nothing is lost."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from contract.broker import JOB_QUEUE
from contract.model_folder import MANIFEST_JSON, FolderManifest
from contract.store import WORKERS_KEY
from producer import Client
from producer.first_jobs import FIRST, LEAST, FirstJobsFailError
from producer.run_folder import RunFolder
from tests.support.command import run_command
from tests.support.processes import ROOT, spawn, wait_until
from tests.support.producer_driver import lines, texts

MODEL = ROOT / "demo" / "model" / "openvino"
MODEL_ID = FolderManifest.model_validate_json((MODEL / MANIFEST_JSON).read_bytes()).model
MANY = FIRST + 4
SHORT = ("--question", "Describe the image.", "--max-new-tokens", "2")


def captionmill(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments)


def events(told: str, name: str) -> list[dict[str, Any]]:
    return [one for one in map(json.loads, told.splitlines()) if one["event"] == name]


def paint(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Different pictures."""
    folder.mkdir(exist_ok=True)
    made = [folder / f"{number:02d}.png" for number in range(first, first + count)]
    for number, path in enumerate(made, start=first):
        Image.new("RGB", (24, 24), (number % 256, number // 256, 200)).save(path)
    return made


def listed(paths: Sequence[Path | str], source: Path) -> Path:
    source.write_text("".join(f"{path}\n" for path in paths))
    return source


@contextmanager
def working(words: Sequence[str], log: Path, url: str) -> Iterator[None]:
    """A worker that `captionmill worker …` starts, ready when the block begins and ended after it."""
    process = spawn([sys.executable, "-m", *words], log, {})
    with redis.Redis.from_url(url) as connection:

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            return bool(connection.hlen(WORKERS_KEY))

        wait_until(ready)
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0, log.read_text()


def worker_words(url: str, root: Path) -> list[str]:
    return ["captionmill", "worker", "--redis", url, "--model", str(MODEL), "--image-root", str(root)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The only image root of the worker."""
    return tmp_path_factory.mktemp("root").resolve()


@pytest.fixture(scope="module")
def site(root: Path, server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with one worker."""
    url = f"{server_url}/3"
    with redis.Redis.from_url(url) as connection:
        connection.flushdb()
    with working(worker_words(url, root), tmp_path_factory.mktemp("worker") / "worker.log", url):
        yield url


@pytest.fixture
def empty(server_url: str) -> Iterator[str]:
    """The URL of a server without a worker."""
    url = f"{server_url}/4"
    with redis.Redis.from_url(url) as connection:
        connection.flushdb()
        yield url
        connection.flushdb()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Pictures outside the worker's image root."""
    paint(tmp_path / "elsewhere", MANY)
    return tmp_path.resolve() / "elsewhere"


def assert_as_new(out: Path) -> None:
    """Nothing is known of any row, and nothing is under way."""
    folder = RunFolder(out, read_only=True)
    assert folder.ledger.failures() == {}
    assert folder.ledger.count_open_jobs() == 0
    assert folder.ledger.complete_rows() == 0
    folder.close()
    assert (out / "answers.jsonl").read_bytes() == b""
    assert (out / "failures.jsonl").read_bytes() == b""


def test_pictures_outside_the_image_roots(site: str, root: Path, outside: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ("run", outside, *SHORT, "--out", out, "--redis", site)
    ran = captionmill(*given, "--json")
    assert ran.returncode == 2
    [stopped] = events(ran.stdout, "stopped")
    assert (stopped["code"], stopped["jobs"] >= FIRST) == ("image_not_allowed", True)
    assert stopped["message"] in ran.stderr
    assert f"00.png is outside the image roots of the live workers ({root})." in ran.stderr
    assert f"captionmill worker --image-root {outside}, or CAPTIONMILL_IMAGE_ROOTS={outside}" in ran.stderr
    assert "with --ship" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert_as_new(out)
    shipped = captionmill(*given, "--ship")
    assert shipped.returncode == 0, shipped.stderr
    assert len(texts(out)) == MANY


def test_after_the_mend_the_run_goes_on_by_itself(empty: str, outside: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "other").mkdir()
    with working(worker_words(empty, tmp_path / "other"), tmp_path / "wrong.log", empty):
        assert captionmill("run", outside, *SHORT, "--out", out, "--redis", empty).returncode == 2
    with working(worker_words(empty, outside), tmp_path / "right.log", empty):
        ran = captionmill("run", "--resume", "--out", out, "--redis", empty)
    assert ran.returncode == 0, ran.stderr
    assert len(texts(out)) == MANY
    assert lines(out, "failures.jsonl") == []


def far_away(_: Path) -> list[str]:
    return [f"http://127.0.0.1:1/{number}.png" for number in range(MANY)]


def missing(root: Path) -> list[str]:
    return [str(root / f"gone-{number}.png") for number in range(MANY)]


def there(root: Path) -> list[str]:
    return [str(path) for path in paint(root / "there", MANY)]


@pytest.mark.parametrize(
    ("images", "options", "code", "remedy"),
    [
        (
            missing,
            (),
            "image_not_found",
            "neither here nor for the workers: look at the source, and at --image-root",
        ),
        (far_away, (), "url_not_allowed", "--url-private-networks, or CAPTIONMILL_URL_SCHEMES"),
        (there, ("--question", "word " * 4000), "question_too_long", "Ask a shorter question"),
    ],
)
def test_whatever_hits_every_row_stops_the_run(
    site: str, root: Path, tmp_path: Path, images: Any, options: tuple[str, ...], code: str, remedy: str
) -> None:
    source = listed(images(root), tmp_path / "list.txt")
    asked = options or SHORT
    ran = captionmill("run", source, *asked, "--out", tmp_path / "out", "--redis", site)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert f"jobs all failed with {code}." in ran.stderr
    assert remedy in ran.stderr
    assert "Traceback" not in ran.stderr
    assert_as_new(tmp_path / "out")


def test_a_run_of_few_rows_ends_with_its_failures_and_the_sentence(
    site: str, outside: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    source = listed(sorted(outside.iterdir())[: LEAST - 1], tmp_path / "list.txt")
    given = ("run", source, *SHORT, "--out", out, "--redis", site)
    ran = captionmill(*given)
    assert ran.returncode == 1, ran.stderr
    assert f"--image-root {outside}" in ran.stdout
    assert len(lines(out, "failures.jsonl")) == LEAST - 1
    again = captionmill(*given, "--ship")
    assert again.returncode == 0, again.stderr
    assert f"New jobs: {LEAST - 1};" in again.stdout


def test_names_that_look_the_same_are_told(site: str, root: Path, tmp_path: Path) -> None:
    """Two files are there, and which of them is meant nobody knows."""
    folder = root / "same"
    folder.mkdir()
    for name in ("A\u030a.png", "\u212b.png"):
        paint(root / "one", 1)[0].rename(folder / name)
    source = listed([folder / "\u00c5.png"], tmp_path / "list.txt")
    ran = captionmill("run", source, *SHORT, "--out", tmp_path / "out", "--redis", site)
    assert ran.returncode == 1, ran.stderr
    assert f"There is no file {folder}/\u00c5.png" in ran.stdout
    assert "A\u030a.png is there, and is another name." in ran.stdout


def test_a_run_between_few_and_many_rows_stops_at_its_end(site: str, outside: Path, tmp_path: Path) -> None:
    source = listed(sorted(outside.iterdir())[:LEAST], tmp_path / "list.txt")
    ran = captionmill("run", source, *SHORT, "--out", tmp_path / "out", "--redis", site)
    assert ran.returncode == 2, ran.stdout
    assert f"the first {LEAST} jobs all failed" in ran.stderr
    assert_as_new(tmp_path / "out")


def test_whoever_asks_to_keep_going_gets_all_failures(site: str, outside: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = captionmill("run", outside, *SHORT, "--out", out, "--redis", site, "--keep-going")
    assert ran.returncode == 1, ran.stderr
    assert len(lines(out, "failures.jsonl")) == MANY


def test_a_run_that_had_answers_goes_on(site: str, root: Path, outside: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    good = paint(root / "good", 1, first=24)
    given = (*SHORT, "--out", out, "--redis", site)
    assert captionmill("run", listed(good, tmp_path / "list.txt"), *given).returncode == 0
    source = listed([*good, *sorted(outside.iterdir())], tmp_path / "list.txt")
    ran = captionmill("run", source, *given)
    assert ran.returncode == 1, ran.stderr
    assert len(lines(out, "failures.jsonl")) == MANY


def test_a_run_that_two_processes_drive_stops_in_both(empty: str, tmp_path: Path) -> None:
    out, log, other = tmp_path / "out", tmp_path / "submit.log", tmp_path / "other"
    paint(tmp_path / "elsewhere", 600)
    other.mkdir()
    words = ["submit", str(tmp_path / "elsewhere"), *SHORT, "--out", str(out), "--redis", empty]
    submit = spawn([sys.executable, "-m", "captionmill", *words, "--window", "17"], log, {})
    with redis.Redis.from_url(empty) as connection:
        wait_until(lambda: connection.llen(JOB_QUEUE) == 17)
    collect_log = tmp_path / "collect.log"
    words = ["collect", str(out), "--redis", empty]
    collect = spawn([sys.executable, "-m", "captionmill", *words], collect_log, {})
    wait_until(lambda: "No worker is alive" in collect_log.read_text())
    with working(worker_words(empty, other), tmp_path / "worker.log", empty):
        assert (collect.wait(), submit.wait()) == (2, 2), collect_log.read_text() + log.read_text()
    assert "jobs all failed with image_not_allowed" in collect_log.read_text()
    assert "Another process has stopped the run" in log.read_text()
    assert_as_new(out)


def test_the_client_raises_before_a_row_comes(site: str, outside: Path, tmp_path: Path) -> None:
    with Client(site) as client:
        run = client.submit(outside, questions=["What?"], out=tmp_path / "out")
        with pytest.raises(FirstJobsFailError, match="--ship") as stopped:
            next(iter(run))
    assert stopped.value.code == "image_not_allowed"
    assert_as_new(tmp_path / "out")


def test_without_a_worker_a_run_says_what_to_start_and_waits(
    empty: str, outside: Path, tmp_path: Path
) -> None:
    """The line is pasted as it stands."""
    out, log = tmp_path / "out", tmp_path / "run.log"
    words = ["run", str(outside), *SHORT, "--out", str(out), "--redis", empty, "--model", str(MODEL)]
    run = spawn([sys.executable, "-m", "captionmill", *words], log, {})
    wait_until(lambda: "Start one with:\n" in log.read_text() and log.read_text().endswith("\n"))
    assert f"No worker is alive at {empty}, so the run will wait for one." in log.read_text()
    [line] = [line for line in log.read_text().splitlines() if "captionmill worker" in line]
    assert shlex.split(line) == worker_words(empty, outside)
    with working(shlex.split(line), tmp_path / "worker.log", empty):
        assert run.wait() == 0, log.read_text()
    assert "A worker has come: " in log.read_text()
    assert len(texts(out)) == MANY


def test_a_worker_that_comes_with_another_model_stops_the_run(
    empty: str, outside: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "run.log"
    words = ["run", str(outside), *SHORT, "--out", str(out), "--redis", empty, "--model", "another"]
    run = spawn([sys.executable, "-m", "captionmill", *words], log, {})
    wait_until(lambda: "No worker is alive" in log.read_text())
    assert "--model MODEL" in log.read_text()
    with working(worker_words(empty, outside), tmp_path / "worker.log", empty):
        assert run.wait() == 2, log.read_text()
    said = f"The jobs ask for the model another; live workers have: {MODEL_ID}. Name one with --model."
    assert said in log.read_text()
    assert_as_new(out)


def test_without_a_worker_jobs_are_sent_and_the_line_is_said(
    empty: str, outside: Path, tmp_path: Path
) -> None:
    sent = captionmill("submit", outside, *SHORT, "--out", tmp_path / "out", "--redis", empty, "--json")
    assert sent.returncode == 0, sent.stderr
    [told] = events(sent.stdout, "no_worker")
    assert f"captionmill worker --redis {empty} --model MODEL --image-root {outside}" in told["message"]


@pytest.mark.parametrize("command", ["ask", "estimate"])
def test_without_a_worker_what_cannot_wait_ends(empty: str, outside: Path, command: str) -> None:
    given = {
        "ask": ("ask", outside / "00.png", "What?"),
        "estimate": ("estimate", outside, "--question", "What?"),
    }
    ran = captionmill(*given[command], "--redis", empty)
    assert ran.returncode == 2, ran.stdout
    assert f"captionmill worker --redis {empty} --model MODEL" in ran.stderr


@pytest.mark.parametrize("command", ["run", "submit", "estimate", "ask"])
def test_a_model_that_no_live_worker_has_is_refused(
    site: str, outside: Path, tmp_path: Path, command: str
) -> None:
    out = ("--out", tmp_path / "out")
    given: dict[str, tuple[str | Path, ...]] = {
        "run": ("run", outside, *SHORT, *out),
        "submit": ("submit", outside, *SHORT, *out),
        "estimate": ("estimate", outside, *SHORT),
        "ask": ("ask", outside / "00.png", "What?"),
    }
    ran = captionmill(*given[command], "--redis", site, "--model", "another")
    assert ran.returncode == 2, ran.stdout
    assert f"No live worker has the model another: they have {MODEL_ID}." in ran.stderr
    assert not (tmp_path / "out").exists()


def test_a_model_folder_stands_for_its_id(site: str, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = listed([*paint(root / "folder", 1, first=23), root / "gone.png"], tmp_path / "list.txt")
    given = ("run", source, *SHORT, "--redis", site, "--model", MODEL)
    assert captionmill(*given, "--out", out).returncode == 1
    assert RunFolder(out, read_only=True).submission.model == MODEL_ID
    bare = captionmill(*given[:-1], root, "--out", tmp_path / "none")
    assert (bare.returncode, "is no model folder" in bare.stderr) == (2, True)
    for words in (("retry", out), ("run", "--resume", "--out", out)):
        other = captionmill(*words, "--redis", site, "--model", "another")
        assert (other.returncode, "No live worker has the model another" in other.stderr) == (2, True)
    assert captionmill("retry", out, "--redis", site, "--model", MODEL).returncode == 1


def test_an_estimate_that_fails_has_no_forecast(site: str, outside: Path) -> None:
    ran = captionmill("estimate", outside, *SHORT, "--redis", site, "--sample", "5")
    assert ran.returncode == 1
    assert "     5  image_not_allowed, as of 00.png: " in ran.stdout
    assert f"--image-root {outside}" in ran.stdout
    assert "h:mm:ss" not in ran.stdout
    assert "5 questions of the 5 sample rows failed, so there is no forecast." in ran.stderr


def test_an_estimate_that_fails_without_a_server(tmp_path: Path) -> None:
    paint(tmp_path / "photos", 2)
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    ran = captionmill("estimate", tmp_path / "photos", *SHORT, "--model", MODEL)
    assert ran.returncode == 1, ran.stderr
    assert "     1  not_an_image, as of broken.png: The file is no image" in ran.stdout
    assert "h:mm:ss" not in ran.stdout


def test_links_that_lead_outside_in_local_mode(outside: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for path in outside.iterdir():
        (photos / path.name).symlink_to(path)
    given = ("run", photos, *SHORT, "--out", out, "--model", MODEL)
    ran = captionmill(*given)
    assert ran.returncode == 2, ran.stdout
    assert f"00.png leads to {outside / '00.png'}, which is outside the folders of the source" in ran.stderr
    assert f"name {outside} as a source, too." in ran.stderr
    assert "worker" not in ran.stderr
    both = captionmill(*given, outside)
    assert both.returncode == 0, both.stderr


def test_a_list_of_images_in_many_folders_in_local_mode(tmp_path: Path) -> None:
    paths = [path for number in range(6) for path in paint(tmp_path / f"folder {number}", 1, first=number)]
    (tmp_path / "lists").mkdir()
    source = listed(paths, tmp_path / "lists" / "list.txt")
    ran = captionmill("run", source, *SHORT, "--out", tmp_path / "out", "--model", MODEL)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(texts(tmp_path / "out")) == 6


def test_top_tells_the_image_roots(site: str, root: Path) -> None:
    [told] = events(captionmill("top", "--once", "--json", "--redis", site).stdout, "top")
    assert [one["image_roots"] for one in told["workers"]] == [[str(root)]]
