"""CSV, TSV, JSONL, JSON and Parquet: columns by their roles, parameters, and images within the table."""

import csv
import gzip
import json
import tracemalloc
from datetime import date
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from contract.job import ImagePath, ImageUrl
from producer.rows import Embedded, Row
from producer.sources import Source, SourceError, SourceOptions, open_source
from producer.sources.jsonl import CHUNK_BYTES

DATA_URL = "data:image/png;base64,bm90IGEgcmVhbCBwaWN0dXJl"
PIXEL = b"not a real picture"


def opened(source: Path, **options: Any) -> Source:
    return open_source(str(source), SourceOptions(**options))


def rows(source: Path, **options: Any) -> list[Row]:
    return list(opened(source, **options).rows())


def asked(row: Row) -> list[Any]:
    return [question.messages for question in row.questions]


def write_csv(path: Path, *lines: tuple[Any, ...], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(lines)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".tsv.gz"])
def test_delimited_columns_by_role(tmp_path: Path, suffix: str) -> None:
    plain = write_csv(
        tmp_path / "plain",
        ("id", "Image", "question", "hint", "max_new_tokens", "choices", "stop", "detail"),
        ("a", "in/a b.png", 'Two\nlines, "quoted"?', "x", 7, "yes|no", '["END", "."]', 3),
        ("b", "https://example.org/é.png", "", "", "", "", "", ""),
        ("c", DATA_URL, "Q?", "", "", '["a", "b"]', "END", "low"),
        delimiter="\t" if "tsv" in suffix else ",",
    )
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(gzip.compress(plain.read_bytes()) if suffix.endswith(".gz") else plain.read_bytes())
    source = opened(path, quoting="quotes")
    assert source.columns == ("hint", "max_new_tokens", "stop", "detail")
    first, second, third = source.rows()
    assert (first.id, first.name, first.image) == ("a", "in/a b.png", ImagePath.of(tmp_path / "in/a b.png"))
    assert asked(first) == ['Two\nlines, "quoted"?']
    assert first.questions[0].choices == ("yes", "no")
    assert first.offered == {"max_new_tokens": 7, "stop": ("END", ".")}
    assert (first.detail, first.columns) == (
        3,
        {"hint": "x", "max_new_tokens": "7", "stop": '["END", "."]', "detail": "3"},
    )
    assert (second.image, second.questions) == (ImageUrl(url="https://example.org/é.png"), ())
    assert (second.offered, set(second.columns.values()), second.detail) == ({}, {None}, None)
    assert (third.offered, third.detail, third.name) == ({"stop": ("END",)}, "low", None)
    assert third.questions[0].choices == ("a", "b")
    assert isinstance(third.image, Embedded)
    assert source.read(third.image.place) == PIXEL
    assert list(source.rows()) == [first, second, third]


def test_rows_without_ids_are_known_by_their_line(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", ("path",), ("a\nb.png",), ("c.png",))
    assert [row.id for row in rows(path)] == ["2", "4"]


def test_columns_by_option(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "rows.csv", ("n", "left", "right", "ask", "question"), (1, "a.png", "b.png", "X?", "Y?")
    )
    (row,) = rows(path, image_column="right", question_column="ask", id_column="n", image_root="/pics")
    assert (row.id, row.image, asked(row)) == ("1", ImagePath.of("/pics/b.png"), ["X?"])
    assert row.columns == {"left": "a.png", "question": "Y?"}
    source = opened(path, image_column="right", own_questions=False)
    (row,) = source.rows()
    assert row.questions == ()
    assert source.columns == ("n", "left", "ask", "question")
    assert row.columns["question"] == "Y?"


@pytest.mark.parametrize(
    ("lines", "options", "sentence"),
    [
        ([("picture", "question"), ("a.png", "?")], {}, 'no column names an image .*"picture", "question"'),
        ([("path", "url"), ("a.png", "?")], {}, '"path", "url" could each be meant; .*--image-column'),
        ([("image",), ("a.png",)], {"image_column": "img"}, 'no column "img"; there are "image"'),
        ([("image",), ("a.png",)], {"question_column": "q"}, 'no column "q"'),
        ([("image",), ("a.png",)], {"id_column": "q"}, 'no column "q"'),
        ([("image", "image"), ("a.png", "b")], {}, 'names "image" twice'),
        ([("image", "x"), ("a.png", "1"), ("b.png",)], {}, "line 3: 1 cells, but the header names 2"),
        ([("image", "seed"), ("a.png", "one")], {"parameters": ("seed",)}, "line 2: seed: .*integer"),
        ([("image", "question", "choices"), ("a.png", "Q?", "yes")], {}, "choices: .*at least 2"),
        ([("image", "messages"), ("a.png", "{")], {}, "is not JSON"),
        ([("image",)], {}, "rows.csv has no lines"),
        ([], {}, "rows.csv has no lines"),
    ],
)
def test_tables_refused(
    tmp_path: Path, lines: list[tuple[Any, ...]], options: dict[str, Any], sentence: str
) -> None:
    path = write_csv(tmp_path / "rows.csv", *lines)
    with pytest.raises(SourceError, match=sentence):
        rows(path, **options)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'image\n"a.png\n', "line 2: not CSV: unexpected end of data"),
        (b'image\na.png\n"a"b\n', "line 3: not CSV"),
    ],
)
def test_broken_csv_is_named_by_its_line(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(SourceError, match=sentence):
        rows(tmp_path / "rows.csv")


def test_a_broken_gzip_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"image\n" + b"a.png\n" * 9)[:-12])
    with pytest.raises(SourceError, match=r"rows\.csv\.gz cannot be read"):
        rows(tmp_path / "rows.csv.gz")


def test_json_lines_carry_columns_and_parameters(tmp_path: Path) -> None:
    path = tmp_path / "rows.ndjson.gz"
    line = {
        "file_name": "a.png",
        "label": ["x"],
        "seed": 3,
        "parameters": {"do_sample": True},
        "detail": "low",
    }
    embedded = [{"image": DATA_URL, "id": number} for number in range(3)]
    text = "\n".join(map(json.dumps, [line, *embedded]))
    path.write_bytes(gzip.compress(text.encode("utf-8-sig")))
    source = opened(path)
    assert source.columns is None
    first, *others = source.rows()
    assert (first.image, first.columns["label"]) == (ImagePath.of(tmp_path / "a.png"), ["x"])
    assert (first.parameters, first.offered, first.detail) == ({"do_sample": True}, {"seed": 3}, "low")
    for row in reversed(others):
        assert isinstance(row.image, Embedded)
        assert source.read(row.image.place) == PIXEL


def test_llavas_evaluation_file(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(
        '{"question_id": 1, "image": "a.jpg", "text": "Q?", "category": "conv"}\n'
        '{"image": "b.jpg", "text": "T"}'
    )
    first, second = rows(path)
    assert (first.id, asked(first), first.columns) == ("1", ["Q?"], {"category": "conv"})
    assert (second.questions, second.columns) == ((), {"text": "T"})


def test_llavas_training_list(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "<image>\nWhat?"},
        {"from": "gpt", "value": "A cat."},
        {"from": "human", "value": "Colour?"},
    ]
    entries: list[Any] = [{"id": f"n{n}", "image": f"{n}.jpg", "conversations": turns} for n in range(3)]
    entries.append({"image": DATA_URL, "note": "[{ é 🙂 \\" * 200_000})
    path = tmp_path / "train.json"
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False))
    source = opened(path)
    found = list(source.rows())
    assert [row.id for row in found] == ["n0", "n1", "n2", "4"]
    assert [(q.id, q.messages) for q in found[0].questions] == [("q1", "What?"), ("q2", "Colour?")]
    assert found[3].columns["note"] == entries[3]["note"]
    assert isinstance(found[3].image, Embedded)
    assert source.read(found[3].image.place) == PIXEL
    assert source.read(found[3].image.place) == PIXEL


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "has no entries"),
        ("[] x", "goes on after"),
        ('[{"image": "a.png"}, 7]', "entry 2: not a JSON object"),
        ('[{"image": "a.png"} {"image": "a.png"}]', "entry 2: not JSON: a comma"),
        ('[{"image": "a.png"}', "entry 2: not JSON: a comma or the list's end"),
        ('[{"image": "a.png"}] x', "goes on after"),
        ('[{"image": "a.png', "entry 1: not JSON: Unterminated"),
        (
            '[{"image": "a.png"}, {"image": }, {"image": "' + "x" * 900_000 + '"}]',
            "entry 2: not JSON: Expecting",
        ),
        ('[{"image": "a.png", "id": 1.5}]', 'entry 1: "id" must be'),
    ],
)
def test_json_lists_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(SourceError, match=sentence):
        rows(tmp_path / "list.json")


def test_json_entries_may_be_cut_anywhere_while_they_are_read(tmp_path: Path) -> None:
    entry = '{"image": "a\\u00e9.png", "é": [-1.5e3, true, null ,{ }] , "n" : 12}'
    for before in range(len(entry.encode()) + 3):
        text = "[" + " " * (CHUNK_BYTES - 1 - before) + entry + ", " + entry + "]"
        (tmp_path / "list.json").write_text(text, encoding="utf-8")
        assert [row.columns["n"] for row in rows(tmp_path / "list.json")] == [12, 12], before


def test_a_broken_json_entry_is_told_without_reading_on(tmp_path: Path) -> None:
    entries = ',\n{"image": "a.png"}' * 400_000
    (tmp_path / "list.json").write_text('[{"image": "a.png"}, {"image": }' + entries + "]")
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="entry 2: not JSON"):
            rows(tmp_path / "list.json")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3_000_000


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "txt"])
def test_a_hundred_thousand_rows_are_streamed(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"rows.{form}"
    count = 100_000
    with path.open("w") as file:
        if form in ("csv", "txt"):
            file.write("image\n" + "a.png\n" * count + ("\0\n" if form == "txt" else "a,b\n"))
        else:
            separator = ",\n" if form == "json" else "\n"
            file.write("[" if form == "json" else "")
            file.write(
                '{"image": "a.png"}' + f'{separator}{{"image": "a.png"}}' * (count - 1) + separator + "7"
            )
    source = opened(path)
    tracemalloc.start()
    try:
        assert sum(1 for _ in islice(source.rows(), 20_000)) == 20_000
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3_000_000
    taken = 0
    found = source.rows()
    with pytest.raises(SourceError, match=r"line 10000[12]|entry 100001"):  # noqa: PT012 - it counts, too
        for _ in found:
            taken += 1
    assert taken in (count, count + 1)


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    table = columns if isinstance(columns, pyarrow.Table) else pyarrow.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    pytest.importorskip("pyarrow.parquet").write_table(table, path, **options)
    return path


def test_parquet_with_paths(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "rows.parquet",
        {
            "url": ["https://example.org/a.png", "b c.png"],
            "question": ["Q?", None],
            "choices": [["x", "y"], None],
            "day": [date(2020, 1, 2), None],
            "price": [Decimal("1.50"), None],
            "score": [float("nan"), 0.5],
            "tags": [["a"], []],
            "mask": [b"\x00", b"\x01"],
            "seed": [5, None],
        },
    )
    source = opened(path)
    assert source.columns == ("day", "price", "score", "tags", "seed")
    first, second = source.rows()
    assert (first.id, first.image) == ("1", ImageUrl(url="https://example.org/a.png"))
    assert (asked(first), first.questions[0].choices, first.offered) == (["Q?"], ("x", "y"), {"seed": 5})
    assert first.columns == {"day": "2020-01-02", "price": "1.50", "score": None, "tags": ["a"], "seed": 5}
    assert (second.image, second.questions) == (ImagePath.of(tmp_path / "b c.png"), ())
    json.dumps(first.columns)


@pytest.mark.parametrize("form", ["bytes", "struct", "bare struct", "images alone"])
def test_parquet_parts_with_images_within(tmp_path: Path, form: str) -> None:
    for part in range(2):
        numbers = range(part * 100, part * 100 + 100)
        images: list[Any] = [b"image %d" % number for number in numbers]
        if "struct" in form:
            images = [{"bytes": image} for image in images]
        if form == "struct":
            for number, image in zip(numbers, images, strict=True):
                image["path"] = f"{number}.png"
            images[7] = {"bytes": None, "path": "there.png"}
        columns: dict[str, Any] = {"image": images}
        if form != "images alone":
            columns["label"] = list(numbers)
        parquet(tmp_path / "data" / f"train-{part:05d}-of-00002.parquet", columns, row_group_size=40)
    source = opened(tmp_path / "data")
    found = list(source.rows())
    assert [row.id for row in found] == [str(number + 1) for number in range(200)]
    inside = [(number, row.image) for number, row in enumerate(found) if isinstance(row.image, Embedded)]
    assert len(inside) == (198 if form == "struct" else 200)
    if form == "struct":
        assert (found[3].name, found[107].image) == ("3.png", ImagePath.of(tmp_path / "data/there.png"))
    if form != "images alone":
        assert found[150].columns == {"label": 150}
    for number, image in [*inside, *reversed(inside[::9]), *inside[::50]]:
        assert source.read(image.place) == b"image %d" % number
    assert list(source.rows()) == found


def test_images_are_known_by_their_type_before_their_name(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"photo": [{"bytes": PIXEL, "path": None}], "mask": [b"?"], "url": ["b.png"]}
    source = opened(parquet(tmp_path / "a.parquet", columns))
    (row,) = source.rows()
    assert isinstance(row.image, Embedded)
    assert (source.read(row.image.place), row.columns) == (PIXEL, {"url": "b.png"})
    assert rows(tmp_path / "a.parquet", image_column="url")[0].image == ImagePath.of(tmp_path / "b.png")
    with pytest.raises(SourceError, match='"photo", "more" could each be the image'):
        rows(parquet(tmp_path / "b.parquet", {"photo": columns["photo"], "more": columns["photo"]}))
    del columns["photo"]
    assert rows(parquet(tmp_path / "c.parquet", columns))[0].name == "b.png"
    del columns["url"]
    assert isinstance(rows(parquet(tmp_path / "d.parquet", columns))[0].image, Embedded)


def test_parquet_splits_and_refusals(tmp_path: Path) -> None:
    for split in ("train", "test"):
        parquet(tmp_path / f"{split}-00000-of-00001.parquet", {"image": [f"{split}.png"]})
    with pytest.raises(SourceError, match='several splits; its parts are of "test", "train"'):
        rows(tmp_path)
    assert [row.name for row in rows(tmp_path, split="test")] == ["test.png"]
    with pytest.raises(SourceError, match='no split "dev"'):
        rows(tmp_path, split="dev")
    parquet(tmp_path / "test-00001-of-00002.parquet", {"picture": ["a.png"]})
    with pytest.raises(SourceError, match="has other columns than"):
        rows(tmp_path, split="test")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no more PAR1")
    with pytest.raises(SourceError, match=r"broken\.parquet is no Parquet file"):
        rows(tmp_path / "broken.parquet")
    with pytest.raises(SourceError, match='"image" holds no image: its type is int64'):
        rows(parquet(tmp_path / "x" / "n.parquet", {"image": [1]}))
    with pytest.raises(SourceError, match='"blob" holds bytes and no text'):
        rows(parquet(tmp_path / "x" / "b.parquet", {"image": ["a.png"], "blob": [b"?"]}), id_column="blob")
    with pytest.raises(SourceError, match="row 2: seed"):
        rows(
            parquet(tmp_path / "x" / "s.parquet", {"image": ["a.png"] * 2, "seed": [1, -1]}),
            parameters=("seed",),
        )
    pyarrow = pytest.importorskip("pyarrow")
    empty = parquet(tmp_path / "x" / "e.parquet", {"image": pyarrow.array([], pyarrow.string())})
    with pytest.raises(SourceError, match="has no rows"):
        rows(empty)
