"""An output file that the run did not write, or that a person changed, is never written over."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import redis
from PIL import Image

from producer.planning import plan_run
from producer.questions import read_prompts
from producer.run_folder import CONTACT_SHEET, RunFolder
from producer.sinks.kinds import KINDS
from producer.sinks.sink import NOT_WRITTEN, SinkError, SinkOptions
from producer.submission import Submission
from producer.work import work_on
from tests.producer.test_cli import ask_all, captionmill, photos, worker
from tests.support.producer_driver import Workers, lines

__all__ = ["photos", "worker"]

FILES = {
    "jsonl": "out/answers.jsonl",
    "failures": "out/failures.jsonl",
    "csv": "out/answers.csv",
    "tsv": "out/answers.tsv",
    "parquet": "out/answers.parquet",
    "hf": "images/metadata.jsonl",
    "coco": "out/coco.json",
    "llava": "out/llava.json",
    "vqa": "out/vqa.json",
    "label-studio": "out/label_studio.json",
    "openai": "out/openai_output.jsonl",
    "webdataset": "out/answers-000000.tar",
}
GROWING = {"jsonl", "failures", "csv", "tsv", "openai", "webdataset"}
FOREIGN = "is there and not from this run: move it away, name another path with --sink {}:PATH, or let it"
CHANGED = "was changed since this run wrote it: move it away, name another path with --sink {}:PATH, or let"


def test_every_kind_of_one_file_is_here() -> None:
    assert FILES.keys() == set(KINDS) - {"sidecar"}


@pytest.fixture
def pictures(images: Path) -> Path:
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(images / f"{number}.png")
    return images


def submission(pictures: Path, kind: str) -> Submission:
    """Something of every row is in every form, and something failed."""
    return Submission(
        sources=(str(pictures),),
        prompts=read_prompts(["What?", "fail question_refused"], None, None),
        sinks=(kind,),
        sink_options=SinkOptions(question="q1"),
    )


def plan(pictures: Path, kind: str, *, overwrite: bool = False) -> None:
    asked = submission(pictures, kind)
    plan_run(pictures.parent / "out", asked, asked.open(), overwrite=overwrite)


def drive(
    out: Path, connection: redis.Redis, before_the_end: Callable[[], object] = lambda: None, rounds: int = -1
) -> None:
    """To the end of the run, or through so many rounds of it."""
    with (
        closing(RunFolder(out)) as folder,
        work_on(folder, connection, Workers(connection), feed=True, collect=True, window=1) as work,
    ):
        for _ in work.run.rounds():
            rounds -= 1
            if not rounds:
                return
        before_the_end()
        work.finish(keep_done_s=60)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file and folder; of a ledger, which is never the same twice, only that it is there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        if path.is_file() and path.name != "ledger.sqlite"
        else b""
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_somebody_else(pictures: Path, connection: redis.Redis, kind: str) -> None:
    file = pictures.parent / FILES[kind]
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    before = tree(pictures.parent)
    with pytest.raises(SinkError) as refused:
        plan(pictures, kind)
    assert f"{file} {FOREIGN.format(kind)}" in str(refused.value)
    assert tree(pictures.parent) == before
    plan(pictures, kind, overwrite=True)
    drive(pictures.parent / "out", connection)
    assert file.read_bytes() != b"mine"
    plan(pictures, kind)  # it is the run's own now
    drive(pictures.parent / "out", connection)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content + b"\n",
        lambda content: content[:-1],
        lambda content: b"#" + content[1:],
        lambda _: b"",
    ],
    ids=["longer", "shorter", "as long", "emptied"],
)
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_was_changed_after_the_run(
    pictures: Path, connection: redis.Redis, kind: str, edit: Callable[[bytes], bytes]
) -> None:
    out, file = pictures.parent / "out", pictures.parent / FILES[kind]
    plan(pictures, kind)
    drive(out, connection)
    ours = file.read_bytes()
    assert ours
    file.write_bytes(edit(ours))
    with pytest.raises(SinkError) as refused:
        plan(pictures, kind)
    assert f"{file} {CHANGED.format(kind)}" in str(refused.value)
    with pytest.raises(SinkError, match="was changed"):
        drive(out, connection)  # as `run --resume` does
    assert file.read_bytes() == edit(ours)
    # The same content at another time is no change.
    file.write_bytes(ours)
    plan(pictures, kind)
    drive(out, connection)
    file.write_bytes(edit(ours))
    with closing(RunFolder(out)) as folder:
        folder.begin_outputs()
    drive(out, connection)
    assert file.read_bytes() == ours


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_was_changed_while_the_run_was_stopped(
    pictures: Path, connection: redis.Redis, kind: str
) -> None:
    out, file = pictures.parent / "out", pictures.parent / FILES[kind]
    plan(pictures, kind)
    drive(out, connection, rounds=3)
    if kind == "webdataset":
        file = file.with_name(file.name + ".new")
    assert file.exists() == (kind in GROWING)
    content = b"#" + file.read_bytes()[1:] if file.exists() else b"mine"
    file.write_bytes(content)
    with pytest.raises(SinkError, match=" not from this run: " if kind not in GROWING else "was changed"):
        drive(out, connection)
    assert file.read_bytes() == content


@pytest.mark.parametrize("kind", sorted(FILES.keys() - GROWING))
def test_a_file_that_came_while_the_run_went_on(pictures: Path, connection: redis.Redis, kind: str) -> None:
    out, file = pictures.parent / "out", pictures.parent / FILES[kind]
    plan(pictures, kind)
    drive(out, connection, lambda: file.write_text("mine"))
    assert {line["message"] for line in lines(out, "failures.jsonl") if line["code"] == NOT_WRITTEN} == {
        f"{file} {FOREIGN.format(kind)} be replaced with --overwrite."
    }
    assert file.read_text() == "mine"
    assert not list(out.glob(".captionmill*"))
    file.unlink()
    drive(out, connection)
    assert file.read_bytes()


def test_a_run_folder_that_was_moved_knows_its_files(pictures: Path, connection: redis.Redis) -> None:
    out = pictures.parent / "out"
    plan(pictures, "csv")
    drive(out, connection)
    (pictures.parent / "out").rename(pictures.parent / "moved")
    asked = submission(pictures, "csv")
    plan_run(pictures.parent / "moved", asked, asked.open())
    drive(pictures.parent / "moved", connection)


def test_files_of_an_output_that_is_not_asked_for_any_more_stay(
    pictures: Path, connection: redis.Redis
) -> None:
    out = pictures.parent / "out"
    plan(pictures, "csv")
    drive(out, connection)
    kept = (out / "answers.csv").read_bytes()
    (out / "answers.csv").write_bytes(kept + b"mine")
    plan(pictures, "jsonl")
    drive(out, connection)
    assert (out / "answers.csv").read_bytes() == kept + b"mine"


@pytest.fixture
def finished(redis_url: str, photos: Path, worker: None, tmp_path: Path) -> list[str]:
    """The arguments of a run, after it, with every kind of output."""
    del worker
    sinks = [option for kind in FILES for option in ("--sink", kind)]
    given = ask_all(photos, tmp_path / "out", redis_url, *sinks)
    assert captionmill("run", *given).returncode == 0
    return given


def test_the_command_refuses_what_a_person_changed(
    redis_url: str, finished: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for kind, name in [*FILES.items(), (None, f"out/{CONTACT_SHEET}")]:
        file = tmp_path / name
        ours = file.read_bytes()
        file.write_bytes(ours + b"mine")
        before = tree(tmp_path)
        elsewhere = "" if kind is None else f"name another path with --sink {kind}:PATH, "
        ran = captionmill("run", *finished)
        assert (ran.returncode, ran.stderr) == (
            2,
            f"captionmill: {file} was changed since this run wrote it: move it away, {elsewhere}"
            "or let it be replaced with --overwrite.\n",
        )
        assert tree(tmp_path) == before
        file.write_bytes(ours)
    (out / "answers.jsonl").write_text("mine")
    for command in (
        ("run", "--resume", "--out", str(out)),
        ("collect", str(out)),
        ("retry", str(out)),
        ("submit", *finished),
    ):
        ran = captionmill(*command, *(() if command[0] == "submit" else ("--redis", redis_url)))
        assert ran.returncode == 2, command
        assert "answers.jsonl was changed since this run wrote it" in ran.stderr
    assert (out / "answers.jsonl").read_text() == "mine"
    for command in (
        ("run", "--resume", "--out", str(out)),
        ("collect", str(out)),
        ("retry", str(out)),
        ("run", *finished),
    ):
        (out / "answers.jsonl").write_text("mine")
        redis_option = () if command == ("run", *finished) else ("--redis", redis_url)
        ran = captionmill(*command, "--overwrite", *redis_option)
        assert ran.returncode == 0, ran.stderr
        assert len(lines(out)) == 7


def test_images_with_their_metadata_are_loaded_by_datasets(
    redis_url: str, worker: None, images: Path, tmp_path: Path
) -> None:
    """`--sink hf` without a path writes it where it belongs, for a folder with folders in it."""
    import datasets

    del worker
    (images / "sub").mkdir()
    for name in ("a.png", "b.jpg", "sub/c.png"):
        Image.new("RGB", (8, 6)).save(images / name)
    given = ask_all(images, tmp_path / "out", redis_url, "--recursive", "--sink", "hf")
    ran = captionmill("run", *given)
    assert ran.returncode == 0, ran.stderr
    told = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in told] == ["a.png", "b.jpg", "sub/c.png"]
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(images), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == 3
    assert all(text.startswith("What?") for text in loaded["text"])
    assert loaded[0]["image"].size == (8, 6)
    assert captionmill("run", *given).returncode == 0  # and it is not taken for somebody else's
