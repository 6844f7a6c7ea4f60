"""What sinks write is loaded back by the tools it is for, with names and texts of every kind."""

import csv
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import webdataset
from PIL import Image

from contract.answer import ChoiceProbability, Generated
from contract.job import ImageMember, ImageUrl
from producer.rows import Answered, AnsweredRow, Embedded
from producer.sinks.kinds import KINDS, open_sinks
from producer.sinks.sink import Sink, SinkError, SinkOptions
from tests.support.answered import answer, answered_row, failure, read_path, record_in

NAMES = ["a b.png", "x/img.v2.png", "y/img.v2.png", "猫/'\"<,;\t.png", "back\\slash.png", "\udce9.png"]
TEXT = 'He said "no",\nthen; left.\t\u2028 猫 🐈'


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "red").save(path)
    return path


@pytest.fixture
def rows(tmp_path: Path) -> list[AnsweredRow]:
    """Pictures in a folder, the last two questions of the last one failed."""
    made = []
    for number, name in enumerate(NAMES):
        outcomes = [failure(), failure()] if number == len(NAMES) - 1 else [TEXT, "2"]
        image = picture(tmp_path / "images" / name)
        made.append(
            answered_row(
                number, *outcomes, id=name, name=name, image=image, columns={"n": number, "id": "own"}
            )
        )
    return made


def write(spec: str, folder: Path, rows: Sequence[AnsweredRow], **options: Any) -> Sink:
    sink = open_sinks([spec], folder, SinkOptions(**options), read_path, record_in(folder))[0]
    sink.resume(None)
    # Rows come as they are completed, here backwards.
    for row in reversed(rows):
        sink.write([row])
    sink.finish(lambda: iter(rows))
    sink.close()
    return sink


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def one_question(rows: Sequence[AnsweredRow]) -> list[AnsweredRow]:
    return [answered_row(r.position, r.answers[0].outcome, id=r.id, name=r.name, image=r.image) for r in rows]


def test_answers_and_failures(tmp_path: Path, rows: list[AnsweredRow]) -> None:
    sinks = open_sinks([], tmp_path, SinkOptions(), read_path, record_in(tmp_path))
    for sink in sinks:
        sink.resume(None)
        sink.write(rows)
        sink.close()
    told = lines(tmp_path / "answers.jsonl")
    assert [line["name"] for line in told] == NAMES
    assert list(told[0]) == ["index", "id", "image", "name", "columns", "model", "answers"]
    assert told[5]["image"] == str(tmp_path / "images" / "\udce9.png")
    assert told[0]["answers"][0] == {
        "question": "q1",
        "prompt": "What 1?",
        "text": TEXT,
        "finish_reason": "stop",
        "completion_tokens": 4,
        "prompt_tokens": 20,
        "score": -0.125,
        "mean_log_prob": -0.25,
        "flags": [],
        "alternatives": [],
        "choices": [],
    }
    failed = lines(tmp_path / "failures.jsonl")
    assert [line["question"] for line in failed] == ["q1", "q2"]
    assert failed[0] == {
        "position": 5,
        "id": "\udce9.png",
        "name": "\udce9.png",
        "question": "q1",
        "code": "image_broken",
        "message": "The image is broken.",
    }


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (ImageUrl(url="https://example.org/a.png"), "https://example.org/a.png"),
        (ImageMember.of("/s.tar", 512, 10, "a.png"), None),
        (Embedded(place=3), None),
        (None, None),
    ],
)
def test_images_that_are_no_files(tmp_path: Path, image: Any, text: str | None) -> None:
    write("jsonl", tmp_path, [answered_row(image=image)])
    assert lines(tmp_path / "answers.jsonl")[0]["image"] == text
    assert "columns" not in lines(tmp_path / "answers.jsonl")[0]


@pytest.mark.parametrize(
    ("spec", "name", "dialect"),
    [
        ("csv", "answers.csv", "excel"),
        ("tsv", "answers.tsv", "excel-tab"),
        ("csv:{}/new folder/a.tsv", "new folder/a.tsv", "excel-tab"),
    ],
)
def test_tables(tmp_path: Path, rows: list[AnsweredRow], spec: str, name: str, dialect: str) -> None:
    write(spec.format(tmp_path), tmp_path, rows)
    with (tmp_path / name).open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file, dialect=dialect))
    assert list(found[0]) == ["id", "image", "q1", "q2", "n", "source_id"]
    assert [row["id"] for row in reversed(found)] == [*NAMES[:5], "\\xe9.png"]
    assert (found[1]["q1"], found[1]["q2"], found[1]["n"], found[1]["source_id"]) == (TEXT, "2", "4", "own")
    assert found[0]["q1"] == ""


def test_a_table_with_a_line_per_question(tmp_path: Path, rows: list[AnsweredRow]) -> None:
    write("csv", tmp_path, rows, long_table=True)
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0])[2:] == ["question", "prompt", "answer", "failure", "n", "source_id"]
    assert len(found) == 2 * len(rows)
    assert found[0]["failure"] == "image_broken"
    assert (found[2]["question"], found[2]["prompt"], found[2]["answer"]) == ("q1", "What 1?", TEXT)


def test_columns_that_come_later_are_columns(tmp_path: Path) -> None:
    late = answered_row(0, "a", "b", columns={"label": ["x"], "empty": None})
    write("csv", tmp_path, [late, answered_row(1, "c")])
    assert (tmp_path / "answers.csv").read_text() == (
        'id,image,q1,q2,label,empty\n0,,a,b,"[""x""]",\n1,,c,,,\n'
    )


def test_parquet(tmp_path: Path, rows: list[AnsweredRow]) -> None:
    choices = tuple(ChoiceProbability(text=text, probability=0.5, score=-1) for text in ("yes", "no"))
    other = Generated(text="b", finish_reason="length", completion_tokens=1, score=-2, mean_log_prob=-3)
    full = answer("a", choices=choices, alternatives=(other,), flags=("truncated",))
    mixed: dict[str, Any] = {"n": 1.5, "tags": ["x"], "one": "text", "big": 2**70}
    rows = [*rows, answered_row(6, full, columns=mixed), answered_row(7, columns={"one": 1})]
    write("parquet", tmp_path, rows)
    table = pyarrow.parquet.read_table(tmp_path / "answers.parquet")
    found = table.to_pylist()
    assert found[0]["q1"] == TEXT
    assert found[5]["q1"] is None
    assert found[5]["id"] == "\\xe9.png"
    assert found[5]["answers"][0]["failure"] == {"code": "image_broken", "message": "The image is broken."}
    assert [row["n"] for row in found] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 1.5, None]
    assert (found[6]["tags"], found[6]["one"], found[7]["one"]) == ('["x"]', '"text"', "1")
    assert found[6]["big"] == str(2**70)
    assert found[0]["source_id"] == "own"
    told = found[6]["answers"][0]
    assert told["choices"][1] == {"text": "no", "probability": 0.5, "score": -1.0}
    assert (told["alternatives"][0]["text"], told["flags"]) == ("b", ["truncated"])


def test_parquet_streams_in_row_groups(tmp_path: Path) -> None:
    sink = open_sinks(["parquet"], tmp_path, SinkOptions(), read_path, record_in(tmp_path))[0]
    sink.resume(None)
    sink.finish(lambda: (answered_row(number) for number in range(10_000)))
    file = pyarrow.parquet.ParquetFile(tmp_path / "answers.parquet")
    assert file.num_row_groups == 3
    assert file.read(["position"]).column(0).to_pylist() == list(range(10_000))


def samples(folder: Path) -> list[dict[str, Any]]:
    shards = sorted(str(path) for path in folder.glob("answers-*"))
    loaded: Iterator[dict[str, Any]] = iter(
        webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    )
    return list(loaded)


def test_webdataset(tmp_path: Path, rows: list[AnsweredRow]) -> None:
    gone = answered_row(7, name="gone.png", image=tmp_path / "gone.png")
    upper = answered_row(8, name="../UP.PNG", image=rows[0].image)
    sink = write("webdataset", tmp_path, [*rows, gone, upper], samples_per_shard=4)
    assert sink.left_alone == {"a question about it failed": 1}
    assert sink.left_alone.take_unwritten() == [(7, "its image cannot be read")]
    assert sorted(path.name for path in tmp_path.glob("answers*")) == [
        "answers-000000.tar",
        "answers-000001.tar",
    ]
    found = samples(tmp_path)
    assert [sample["__key__"] for sample in found] == [
        "000000008_UP",
        "000000004_back_slash",
        "猫/000000003",
        "y/000000002_img_v2",
        "x/000000001_img_v2",
        "000000000_a_b",
    ]
    for sample in found[1:]:
        line = json.loads(sample["json"])
        assert sample["png"] == Path(line["image"]).read_bytes()
        assert sample["txt"].decode() == f"{TEXT}\n2"
    with tarfile.open(tmp_path / "answers-000001.tar") as tar:
        members = tar.getmembers()
    assert {(member.mtime, member.uid, member.mode) for member in members} == {(0, 0, 0o644)}


@pytest.mark.parametrize("vqa", [False, True])
def test_image_folder_is_loaded_by_datasets(tmp_path: Path, rows: list[AnsweredRow], vqa: bool) -> None:
    import datasets

    (tmp_path / "images" / "\udce9.png").unlink()
    spec = f"hf:{tmp_path}/images/metadata.jsonl"
    sink = write(spec, tmp_path / "run", one_question(rows), vqa_columns=vqa)
    assert sink.left_alone == {"a question about it failed": 1}
    assert not sink.left_alone.take_unwritten()
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "images"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == len(NAMES) - 1
    assert loaded[0]["image"].size == (8, 6)
    assert set(loaded["answer" if vqa else "text"]) == {TEXT}
    assert set(loaded.column_names) == ({"image", "question", "answer"} if vqa else {"image", "text"})


def test_image_folder_of_several_questions(tmp_path: Path, rows: list[AnsweredRow]) -> None:
    elsewhere = answered_row(9, "a", "b", image=picture(tmp_path / "other.png"), name="other.png")
    spec = f"hf:{tmp_path}/images/x/../metadata.jsonl"
    bytes_name = answered_row(10, "a", "b", image=tmp_path / "images" / "\udce9.png", name="\udce9.png")
    sink = write(spec, tmp_path / "run", [*rows, elsewhere, bytes_name])
    found = lines(tmp_path / "images" / "metadata.jsonl")
    assert [line["file_name"] for line in found] == NAMES[:5]
    assert found[1] == {"file_name": NAMES[1], "q1": TEXT, "q2": "2", "n": 1, "id": "own"}
    assert sink.left_alone == {"a question about it failed": 1}
    assert sink.left_alone.take_unwritten() == [
        (9, "its image is not below the folder of metadata.jsonl"),
        (10, "its name is not UTF-8, which metadata.jsonl cannot hold"),
    ]


def test_json_lists(tmp_path: Path, rows: list[AnsweredRow]) -> None:
    coco = answered_row(6, "a cat", name="val/COCO_val2014_000000391895.jpg")
    numbered = answered_row(7, "a cat", columns={"image_id": 12, "question_id": 34})
    turns = (
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hm?"}]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "And?"},
    )
    talk = answered_row(8, name="t.png", answers=(Answered("q1", turns, answer("No.")),))
    rows = [*rows, coco, numbered, talk]
    for kind in ("coco", "vqa", "llava", "label-studio"):
        sink = write(kind, tmp_path, rows)
        assert sink.left_alone == {"it has no answer for this list": 1}
    found = json.loads((tmp_path / "coco.json").read_text())
    assert found[0] == {"image_id": NAMES[0], "caption": f"{TEXT}\n2"}
    assert [entry["image_id"] for entry in found[5:]] == [391895, 12, 8]
    found = json.loads((tmp_path / "vqa.json").read_text())
    assert found[0] == {"question_id": f"{NAMES[0]}/q1", "answer": TEXT}
    assert [entry["question_id"] for entry in found[10:]] == [6, 34, 8]
    found = json.loads((tmp_path / "llava.json").read_text())
    assert found[0] == {
        "id": NAMES[0],
        "image": NAMES[0],
        "conversations": [
            {"from": "human", "value": "<image>\nWhat 1?"},
            {"from": "gpt", "value": TEXT},
            {"from": "human", "value": "What 2?"},
            {"from": "gpt", "value": "2"},
        ],
    }
    assert [turn["from"] for turn in found[-1]["conversations"]] == ["human", "gpt", "human", "gpt"]
    assert found[-1]["conversations"][0]["value"] == "<image>\nHm?"
    (task, *_) = json.loads((tmp_path / "label_studio.json").read_text())
    assert task["data"]["image"] == str(tmp_path / "images" / NAMES[0])
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "demo"
    assert prediction["score"] == pytest.approx(0.7788, abs=1e-4)
    assert prediction["result"][1] == {
        "from_name": "q2",
        "to_name": "image",
        "type": "textarea",
        "value": {"text": ["2"]},
        "score": prediction["score"],
    }


def test_label_studio_names_are_escaped_behind_a_prefix(tmp_path: Path) -> None:
    names = ("a b/c+#?%.png", "\udce9é.png")
    rows = [answered_row(number, name=name, image=tmp_path / name) for number, name in enumerate(names)]
    rows.append(answered_row(2, name="https://e.org/a b.png", image=ImageUrl(url="https://e.org/a%20b.png")))
    write("label-studio", tmp_path, rows, image_prefix="/data/local-files/?d=")
    told = [task["data"]["image"] for task in json.loads((tmp_path / "label_studio.json").read_text())]
    assert told == [
        "/data/local-files/?d=a%20b/c%2B%23%3F%25.png",
        "/data/local-files/?d=%E9%C3%A9.png",
        "https://e.org/a%20b.png",
    ]


def test_ids_that_are_numbers_stay_numbers(tmp_path: Path) -> None:
    """As COCO's and VQA's tools compare them, whatever text or float a table made of them."""
    ids = {"000000391895": 391895, "12": 12, "12.0": 12, "x12": "x12"}
    rows = [
        answered_row(number, columns={"image_id": one, "question_id": one}) for number, one in enumerate(ids)
    ]
    rows.append(answered_row(9, id="458752000", columns={"image_id": 7.0}))
    for kind in ("coco", "vqa"):
        write(kind, tmp_path, rows)
    told = [entry["image_id"] for entry in json.loads((tmp_path / "coco.json").read_text())]
    assert told == [*ids.values(), 7]
    told = [entry["question_id"] for entry in json.loads((tmp_path / "vqa.json").read_text())]
    assert told == ["000000391895", 12, 12, "x12", 458752000]


@pytest.mark.parametrize("kind", ["coco", "vqa", "llava", "label-studio"])
def test_a_list_of_nothing_is_a_list(tmp_path: Path, kind: str) -> None:
    write(f"{kind}:{tmp_path}/a.json", tmp_path, [])
    assert json.loads((tmp_path / "a.json").read_text()) == []


def test_openai_batch(tmp_path: Path) -> None:
    other = Generated(text="b", finish_reason="length", completion_tokens=3, score=-2, mean_log_prob=-3)
    full = answer("a", alternatives=(other,))
    rows = [answered_row(0, full, id="r1"), answered_row(1, failure(), id="r2"), answered_row(2, "x", "y")]
    write("openai", tmp_path, rows)
    written = (tmp_path / "openai_output.jsonl").read_bytes()
    *_, first = lines(tmp_path / "openai_output.jsonl")
    assert [line["custom_id"] for line in lines(tmp_path / "openai_output.jsonl")] == ["2/q1", "2/q2", "r1"]
    body = first["response"]["body"]
    assert (first["error"], first["response"]["status_code"], body["object"]) == (
        None,
        200,
        "chat.completion",
    )
    assert [choice["message"]["content"] for choice in body["choices"]] == ["a", "b"]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["stop", "length"]
    assert body["usage"] == {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}
    (failed,) = lines(tmp_path / "openai_output_errors.jsonl")
    assert failed["custom_id"] == "r2"
    assert failed["error"] == {"code": "image_broken", "message": "The image is broken."}
    write("openai", tmp_path, rows)
    assert (tmp_path / "openai_output.jsonl").read_bytes() == written


def test_every_kind_opens_beside_the_others(tmp_path: Path) -> None:
    sinks = open_sinks(KINDS, tmp_path, SinkOptions(), read_path, record_in(tmp_path))
    assert [sink.name for sink in sinks] == list(KINDS)


@pytest.mark.parametrize(
    ("specs", "sentence"),
    [
        (["jsonl", "xml"], 'There is no output "xml"; there are jsonl, failures, csv,'),
        (["csv", "csv"], '"csv" and "csv" would write the same file'),
        (["csv:{}/a", "jsonl:{}/b/../a"], "would write the same file"),
        (["openai:{}/a.jsonl", "jsonl:{}/a_errors.jsonl"], "would write the same file"),
        (["sidecar", "sidecar:{}/b"], "would write the same file"),
        (["csv:"], "names no path"),
        (["csv:{}"], "is a folder"),
        (["csv:{}/file/a.csv"], "cannot be made"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, specs: list[str], sentence: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=r"\.$") as refused:
        open_sinks(
            [spec.format(tmp_path) for spec in specs], tmp_path, SinkOptions(), read_path, record_in(tmp_path)
        )
    assert sentence in str(refused.value)
