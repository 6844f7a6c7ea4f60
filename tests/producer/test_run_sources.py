"""The real command on several sources: what it answers, what it refuses, and what it tells of the rest."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from bench.stub_worker import WORKED_KEY
from producer import Client
from tests.support.command import run_command
from tests.support.processes import ROOT, spawn
from tests.support.producer_driver import lines, texts

WITHOUT_HEIF = (
    "import sys; sys.modules['pillow_heif'] = None; from captionmill.cli import main; sys.exit(main())"
)
"""The command as it is where pillow-heif is not installed."""


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[None]:
    process = spawn(
        [sys.executable, "-m", "bench.stub_worker", redis_url, "count"], tmp_path / "worker.log", {}
    )
    yield
    process.kill()
    process.wait()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Five pictures, of which no two are alike."""
    for number, name in enumerate(
        ("one.jpg", "photos/a.jpg", "photos/b.png", "photos/sub/c.png", "more/a.jpg")
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8 + number), (30 * number, 0, 0)).save(path)
    return tmp_path


CAPTIONMILL = ("-m", "captionmill")


def captionmill(
    folder: Path, *arguments: str | Path, program: tuple[str, ...] = CAPTIONMILL
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    if program == CAPTIONMILL:
        return run_command(*arguments, cwd=folder, env=environment)
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def events(ran: subprocess.CompletedProcess[str], name: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    return [one for one in found if one["event"] == name]


def contents(folder: Path) -> dict[str, bytes]:
    """Of what a person would miss; locks and the ledger's log come and go."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".jsonl", ".html", ".csv")
    }


@pytest.mark.usefixtures("worker")
def test_several_sources_in_one_run(redis_url: str, tree: Path) -> None:
    given = ("one.jpg", "photos", "more/*.jpg", "--question", "What?", "--redis", redis_url, "--out", "out")
    ran = captionmill(tree, "run", *given, "--json")
    assert ran.returncode == 0, ran.stderr
    assert sorted(texts(tree / "out")) == ["more/a.jpg", "one.jpg", "photos/a.jpg", "photos/b.png"]
    (summary,) = events(ran, "summary")
    assert summary["sources"] == [str(tree / one) for one in ("one.jpg", "photos", "more/*.jpg")]
    assert str(tree / "one.jpg") in captionmill(tree, "list", ".").stdout


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("sources", "out"),
    [
        (["one.jpg"], "one.jpg-answers"),
        (["photos/"], "photos-answers"),
        (["photos/a.jpg", "photos/b.png"], "photos-answers"),
        (["photos/sub", "photos/a.jpg"], "photos-answers"),
    ],
)
def test_a_run_without_out_is_named_by_its_sources(
    redis_url: str, tree: Path, sources: list[str], out: str
) -> None:
    ran = captionmill(tree, "run", *sources, "--question", "What?", "--redis", redis_url)
    assert ran.returncode == 0, ran.stderr
    assert f"The run's folder is {out} (--out names another one)." in ran.stdout
    assert texts(tree / out)


@pytest.mark.usefixtures("worker")
def test_a_folder_of_other_sources_is_kept_or_added_to(
    redis_url: str, connection: redis.Redis, tree: Path
) -> None:
    given = ("--question", "What?", "--redis", redis_url, "--out", "out")
    assert captionmill(tree, "run", "photos", *given).returncode == 0
    before = contents(tree / "out")
    for verb in (("run",), ("submit",), ("run", "--dry-run")):
        refused = captionmill(tree, *verb, "more", *given)
        assert refused.returncode == 2
        assert f"out holds answers about {tree}/photos, which this command does not name" in refused.stderr
        assert "--add keeps them" in refused.stderr
        assert "another --out" in refused.stderr
    assert contents(tree / "out") == before
    assert connection.hlen(WORKED_KEY) == 2
    added = captionmill(tree, "run", "more", *given, "--add", "--recursive")
    assert added.returncode == 0, added.stderr
    # The earlier source is read as it was, without its subfolders.
    assert sorted(texts(tree / "out")) == ["more/a.jpg", "photos/a.jpg", "photos/b.png"]
    assert "New jobs: 1" in added.stdout
    for again in (("photos", "more", "--recursive"), ("more", "--add"), ("photos", "more", "one.jpg")):
        ran = captionmill(tree, "run", *again, *given)
        assert ran.returncode == 0, ran.stderr
    assert len(texts(tree / "out")) == 4


@pytest.mark.usefixtures("worker")
def test_rows_that_are_gone_are_told(redis_url: str, tree: Path) -> None:
    given = ("photos", "--question", "What?", "--redis", redis_url, "--out", "out")
    assert "No longer" not in captionmill(tree, "run", *given, "--recursive").stdout
    ran = captionmill(tree, "run", *given)
    assert "and so no longer in the outputs: 1 row of the earlier run." in ran.stdout
    (tree / "photos" / "a.jpg").unlink()
    (planned,) = events(captionmill(tree, "run", *given, "--json"), "planned")
    assert (planned["rows"], planned["gone"]) == (1, 1)
    assert list(texts(tree / "out")) == ["b.png"]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("sources", "options", "told"),
    [
        (["photos"], [], "asked of 2 images:"),
        (["photos", "rows.jsonl"], [], "asked of 3 images that bring no question:"),
        (["own.jsonl"], [], None),
        (["photos"], ["--question", "Describe the image."], None),
    ],
)
def test_the_default_question_is_told_where_a_row_is_asked_it(
    redis_url: str, tree: Path, sources: list[str], options: list[str], told: str | None
) -> None:
    (tree / "rows.jsonl").write_text('{"image": "one.jpg", "question": "Why?"}\n{"image": "more/a.jpg"}')
    (tree / "own.jsonl").write_text('{"image": "one.jpg", "question": "Why?"}')
    ran = captionmill(tree, "run", *sources, *options, "--redis", redis_url, "--out", "out")
    assert ran.returncode == 0, ran.stderr
    if told is None:
        assert "No --question is given" not in ran.stdout
    else:
        assert f'No --question is given, so this is {told} "Describe the image."' in ran.stdout


@pytest.mark.usefixtures("worker")
def test_what_is_skipped_is_told_at_the_start_and_at_the_end(redis_url: str, tree: Path) -> None:
    for name in ("x.mp4", "y.mp4", "z.docx"):
        (tree / "photos" / name).touch()
    given = ("photos", "--question", "What?", "--redis", redis_url, "--out", "out")
    told = "3 files skipped: 2 .mp4, 1 .docx; 1 image in subfolders (--recursive)."
    fields = {"files": {".mp4": 2, ".docx": 1}, "in_subfolders": 1}
    ran = captionmill(tree, "run", *given)
    assert ran.stdout.splitlines()[0] == told
    assert ran.stdout.count(told) == 2
    assert ran.stdout.index("New jobs") < ran.stdout.rindex(told)
    assert told in captionmill(tree, "status", "out").stdout
    ran = captionmill(tree, "run", *given, "--json")
    assert events(ran, "planned")[0]["skipped"] == events(ran, "summary")[0]["skipped"] == fields
    ran = captionmill(tree, "run", "more", "--question", "What?", "--redis", redis_url, "--out", "other")
    assert "files skipped" not in ran.stdout.lower()
    (tree / "photos" / "a.jpg").unlink()
    (tree / "photos" / "b.png").unlink()
    ran = captionmill(tree, "run", *given)
    assert ran.returncode == 2
    assert f"in {tree}/photos. It holds 2 .mp4, 1 .docx; 1 image in subfolders (--recursive)." in ran.stderr


def test_a_dry_run_looks_for_every_image(tree: Path) -> None:
    (tree / "rows.jsonl").write_text(
        "".join(f'{{"image": "{name}"}}\n' for name in ("one.jpg", "photos", "gone-1.jpg", *["gone.jpg"] * 9))
        + '{"image": "https://example.org/x.jpg"}\n'
    )
    before = sorted(tree.rglob("*"))
    given = ("--question", "What is {name}?", "--num-beams", "2", "--dry-run")
    ran = captionmill(tree, "run", "photos", *given)
    assert ran.returncode == 0, ran.stderr
    table = [line for line in ran.stdout.splitlines() if "a.jpg" in line]
    assert len(table) == 1
    assert "What is a.jpg?" in table[0]
    assert "num_beams=2" in table[0]
    assert "2 rows in all; 2 image files looked for and found. Nothing was sent." in ran.stdout
    ran = captionmill(tree, "run", "rows.jsonl", *given)
    assert ran.returncode == 2
    assert "13 rows in all; 1 URL not looked for." in ran.stdout
    assert "11 of 12 image files cannot be read on this machine: " in ran.stderr
    for missing in ("photos (no regular file)", "gone-1.jpg (No such file or directory)"):
        assert f"{tree}/{missing}" in ran.stderr
    ran = captionmill(tree, "run", "rows.jsonl", *given, "--json")
    assert ran.returncode == 2
    assert events(ran, "job")[0]["image"]["path"] == str(tree / "one.jpg")
    assert len(events(ran, "job")) == 5
    (looked,) = events(ran, "looked")
    assert (looked["files"], looked["missing"], looked["urls"]) == (12, 11, 1)
    assert sorted(tree.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_dry_run_tells_of_files_that_it_may_not_read(tree: Path) -> None:
    (tree / "one.jpg").chmod(0)
    ran = captionmill(tree, "run", "one.jpg", "--dry-run")
    assert ran.returncode == 2
    assert "one.jpg (Permission denied)" in ran.stderr


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        (["rows.csv", "--question", "Is {colour}?"], 'no column "colour"'),
        (["twice.jsonl", "--question", "What?"], 'line 2: the id "x" is that of an earlier row'),
        (["photos", "more", "--image-column", "pic"], "--image-column decides nothing"),
        (["photos", "x.mp4"], "1 of the 2 sources are neither images nor manifests: 1 .mp4"),
        (["x.mp4"], "no form is known by its name"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(tree: Path, sources: list[str], sentence: str) -> None:
    (tree / "rows.csv").write_text("image\none.jpg\n")
    (tree / "twice.jsonl").write_text('{"image": "one.jpg", "id": "x"}\n' * 2)
    (tree / "x.mp4").touch()
    for options in (["--dry-run"], ["--redis", "redis://127.0.0.1:1/0"]):
        ran = captionmill(tree, "run", *sources, *options)
        assert ran.returncode == 2
        assert "Traceback" not in ran.stderr
        if options == ["--dry-run"]:
            assert sentence in ran.stderr


def test_photos_of_a_phone_are_named_where_they_cannot_be_decoded(tree: Path) -> None:
    for name in ("p.heic", "q.HEIC", "r.hif"):
        (tree / "photos" / name).touch()
    program = ("-c", WITHOUT_HEIF)
    ran = captionmill(tree, "run", "photos", "--dry-run", program=program)
    assert ran.returncode == 0, ran.stderr
    hint = f"(pip install -e '{ROOT}[heic]')"
    assert f"3 files skipped: 2 .heic {hint}, 1 .hif {hint}; " in ran.stdout
    ran = captionmill(tree, "run", "photos/p.heic", "--dry-run", program=program)
    assert ran.returncode == 2
    assert "photos/p.heic is a HEIC photo" in ran.stderr
    assert f"pip install -e '{ROOT}[heic]'." in ran.stderr
    with_it = captionmill(tree, "run", "photos", "--dry-run", "--json")
    (planned,) = events(with_it, "planned")
    assert (planned["rows"], planned["gone"], planned["skipped"]) == (5, 0, {"in_subfolders": 1})


@pytest.mark.usefixtures("worker")
def test_the_client_takes_several_sources(redis_url: str, tree: Path) -> None:
    with Client(redis_url) as client:
        run = client.submit([tree / "photos", tree / "one.jpg"], questions=["What?"], out=tree / "out")
        assert sorted(row.id for row in run) == ["one.jpg", "photos/a.jpg", "photos/b.png"]
        run = client.submit(tree / "more", questions=["What?"], out=tree / "out", add=True)
        assert len(list(run)) == 4
    assert len(lines(tree / "out")) == 4
