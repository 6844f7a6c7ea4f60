"""--ship sends what the source's folder shows, and no file that a link or a name leads to elsewhere."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from contract.job import INLINE_MAX_BYTES, ImageInline, ImageStored
from producer.planner import Planner
from producer.questions import read_prompts
from producer.run_folder import RunFolder
from producer.sources import SourceOptions
from producer.submission import Submission
from producer.work import work_on
from tests.producer.test_cli import captionmill
from tests.support.processes import spawn
from tests.support.producer_driver import Workers, lines, texts

SECRET = b"-----BEGIN PRIVATE KEY-----" * (INLINE_MAX_BYTES // 20)
SENT = b"a picture"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of a picture, links within it and links and names that lead out of it."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.png").write_bytes(SECRET)
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    (photos / "good.png").write_bytes(SENT)
    (photos / "within.png").symlink_to(photos / "good.png")
    (photos / "link.png").symlink_to(tmp_path / "secret" / "key.png")
    (photos / "chain.png").symlink_to("link.png")
    (photos / "folder").symlink_to(tmp_path / "secret")
    (photos / "more" / "hard.png").write_bytes(SENT)
    return tmp_path


def folder(place: Path) -> tuple[str, dict[str, Any]]:
    return str(place / "photos"), {"recursive": True}


def linked_folder(place: Path) -> tuple[str, dict[str, Any]]:
    """A folder that is named by a link is the folder it leads to."""
    (place / "link").symlink_to(place / "photos")
    return str(place / "link"), {"recursive": True}


def pattern(place: Path) -> tuple[str, dict[str, Any]]:
    return str(place / "photos" / "**" / "*.png"), {}


def names(place: Path) -> list[str]:
    outside = ("folder/key.png", "../secret/key.png", str(place / "secret" / "key.png"))
    return ["good.png", "within.png", "more/hard.png", "link.png", "chain.png", *outside]


def file_list(place: Path) -> tuple[str, dict[str, Any]]:
    (place / "photos" / "list.txt").write_text("\n".join(names(place)))
    return str(place / "photos" / "list.txt"), {}


def manifest(place: Path) -> tuple[str, dict[str, Any]]:
    rows = [json.dumps({"image": name}) for name in names(place)]
    (place / "photos" / "rows.jsonl").write_text("\n".join(rows))
    return str(place / "photos" / "rows.jsonl"), {}


def manifest_elsewhere(place: Path) -> tuple[str, dict[str, Any]]:
    (place / "lists").mkdir()
    rows = ["image", *(name.replace("../secret", "../photos/../secret") for name in names(place))]
    (place / "lists" / "rows.csv").write_text("\n".join(rows))
    return str(place / "lists" / "rows.csv"), {"image_root": str(place / "photos")}


SOURCES: list[Callable[[Path], tuple[str, dict[str, Any]]]] = [
    *(folder, linked_folder, pattern, file_list, manifest, manifest_elsewhere)
]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    made = RunFolder(tmp_path / "out", create=True)
    yield made
    made.close()


@pytest.mark.parametrize("made", SOURCES)
def test_nothing_from_elsewhere_is_sent(
    made: Callable[[Path], tuple[str, dict[str, Any]]], place: Path, run: RunFolder, connection: redis.Redis
) -> None:
    source, options = made(place)
    asked = Submission(
        sources=(source,),
        options=SourceOptions(**options),
        prompts=read_prompts(("What?",), None, None),
        ship=True,
    )
    Planner(run, asked, asked.open()).plan()
    workers = Workers(connection)
    with work_on(run, connection, workers, feed=True, collect=True, window=100) as work:
        list(work.run.rounds())
        work.finish(keep_done_s=60)
    found = texts(run.path)
    good = {"good.png", "within.png", "more/hard.png"}
    by_name = {line["name"]: found[line["id"]] for line in lines(run.path)}
    assert {name for name, answers in by_name.items() if answers == ["What? 128"]} == good
    outside = {name for name, answers in by_name.items() if answers == ["image_not_allowed"]}
    assert outside == by_name.keys() - good
    assert {"link.png", "chain.png"} <= outside
    assert [job.image for job in workers.jobs] == [ImageInline.of(SENT)]
    assert not any(isinstance(job.image, ImageStored) for job in workers.jobs)


def test_the_command_says_what_to_do(place: Path, redis_url: str, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    worker = spawn([sys.executable, "-m", "bench.stub_worker", redis_url, "count"], log, {})
    try:
        asked = ("--question", "What?", "--ship", "--out", tmp_path / "out", "--redis", redis_url)
        ran = captionmill("run", place / "photos", *asked)
    finally:
        worker.kill()
        worker.wait()
    assert ran.returncode == 1, ran.stderr
    failed = {line["name"]: line for line in lines(tmp_path / "out", "failures.jsonl")}
    assert failed.keys() == {"link.png", "chain.png"}
    assert str(failed["link.png"]).count("image_not_allowed") == 1
    message = (
        f"{place}/photos/link.png leads out of {place}/photos, and --ship sends nothing from elsewhere: "
    )
    assert str(failed["link.png"]).count(message) == 1
