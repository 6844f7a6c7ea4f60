"""Files as people of this trade have them: what their authors wanted, where that is told, what comes of it.

Each input is written anew, as small as it can be. Where no source is named, the fault was met in use.
"""

import gzip
import io
import json
import tarfile
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow
import pyarrow.parquet
from PIL import Image


def picture(number: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8 + number, 8), (number, 99, 99)).save(file, "PNG")
    return file.getvalue()


PNG: Final = picture()
EMBEDDED: Final = "embedded"
"""Stands for an image within the source."""
NONE: Final = None
"""Stands for the image of a row that is asked without one."""
REFUSED: Final = None
"""Stands for the image of a row that is a failure."""
NFC, NFD = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))
Write = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One input, and what `captionmill run` makes of it."""

    name: str
    wanted: str
    """By whoever met it."""
    run: tuple[str, ...]
    """Sources, in the folder of the files, and options."""
    files: Mapping[str, bytes | Write]
    rows: Mapping[str, str | None] = field(default_factory=dict)
    """Id → the image, as its path in the folder, EMBEDDED or REFUSED; of the first five."""
    told: tuple[str, ...] = ()
    """What it says, in pieces."""
    code: int = 0
    source: str = ""
    """Project and number of the issue or pull request."""
    helps: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    """Option that is proposed → its values here, if they are not those of HELPS; None if it is not tried."""


HELPS: Final[Mapping[str, tuple[str, ...]]] = {
    "--bad-rows": ("skip",),
    "--delimiter": (";",),
    "--encoding": ("cp1252",),
    "--format": ("folder",),
    "--parameters": ("none",),
    "--quoting": ("quotes",),
    "--recursive": (),
    "--shard-ids": (),
    "--sniff": (),
    "--text-only": (),
}
"""Options that are proposed, with the values that help."""


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def tar(*members: tuple[str, bytes]) -> Write:
    def write(path: Path) -> None:
        with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as archive:
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    return write


def zipped(*members: tuple[str, bytes]) -> Write:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members:
                archive.writestr(name, content)

    return write


def doubled(name: str, *contents: bytes) -> Write:
    def write(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the name is there already
            zipped(*((name, content) for content in contents))(path)

    return write


def parquet(**columns: Any) -> Write:
    return lambda path: pyarrow.parquet.write_table(pyarrow.table(columns), path)


def link(target: str) -> Write:
    return lambda path: path.symlink_to(target)


BAD_LINES: Final = lines({"image": "a.png"}) + b'{"image": "a.png"\n[]\n' + lines({"image": "a.png"})
TWO: Final = {"a.png": PNG, "b.png": PNG}

BAD_ROWS: Final = [
    Case(
        "lines that are not JSON",
        "to be told of all of them at once, with their numbers",
        ("rows.jsonl",),
        {"a.png": PNG, "rows.jsonl": BAD_LINES},
        code=2,
        told=(
            "2 rows cannot be asked: 1 × not JSON; 1 × not a JSON object.",
            "rows.jsonl, line 2: not JSON: Expecting",
            "rows.jsonl, line 3: not a JSON object",
            "Nothing was sent. Mend them, or --bad-rows skip makes failures of them",
        ),
        source="wandb/rai-toolkit #82",
    ),
    Case(
        "the same, skipped",
        "to go on behind a line that is not JSON, and to be told what was skipped",
        ("rows.jsonl", "--bad-rows", "skip"),
        {"a.png": PNG, "rows.jsonl": BAD_LINES},
        {"1": "a.png", "line 2": REFUSED, "line 3": REFUSED, "4": "a.png"},
        told=("2 rows cannot be asked and are failures: 1 × not JSON; 1 × not a JSON object.",),
        source="apache/arrow-rs #3392, pandas-dev/pandas #40273, NVIDIA-NeMo/Automodel #1694",
    ),
    Case(
        "more of them than anybody reads",
        "the first twenty, and the number of all",
        ("rows.jsonl",),
        {"a.png": PNG, "rows.jsonl": lines({"image": "a.png"}) + b"x\n" * 25},
        code=2,
        told=(
            "25 rows cannot be asked: 25 × not JSON.",
            "rows.jsonl, line 21: not JSON: Expecting value at column 1\n  … and 5 more",
        ),
    ),
    Case(
        "one bad line",
        "that nothing is dropped without a word",
        ("rows.jsonl",),
        {"a.png": PNG, "rows.jsonl": lines({"image": "a.png"}) + b"{this is not valid json}\n"},
        code=2,
        told=("rows.jsonl, line 2: not JSON: ", "(--bad-rows skip makes a failure of this row and asks the"),
        source="MakazhanAlpamys/Soup #548",
    ),
    Case(
        "several objects in one line",
        "a metadata file whose line ends were lost",
        ("rows.jsonl",),
        {"a.png": PNG, "rows.jsonl": b'{"file_name": "a.png"} {"file_name": "a.png"}\n'},
        code=2,
        told=("line 1: not JSON: Extra data at column 24",),
        source="clovaai/donut #69",
    ),
    Case(
        "an id twice, a row without a cell, cells too many",
        "all of them listed",
        ("rows.csv",),
        {"a.png": PNG, "rows.csv": b"id,image\nx,a.png\ny\nx,a.png\nz,a.png,more\n"},
        code=2,
        told=(
            "3 rows cannot be asked: 2 × N cells, but the header names N columns; 1 × the id",
            "line 3: 1 cells",
            'line 4: the id "x" is that of an earlier row (row 1); every row needs its own',
            "line 5: 3 cells",
        ),
    ),
    Case(
        "the same, skipped",
        "the others answered",
        ("rows.csv", "--bad-rows", "skip"),
        {"a.png": PNG, "rows.csv": b"id,image\nx,a.png\ny\nx,a.png\nz,a.png,more\n"},
        {"x": "a.png", "line 3": REFUSED, "x (row 3)": REFUSED, "line 5": REFUSED},
        told=("3 rows cannot be asked and are failures",),
    ),
    Case(
        "a placeholder that one row cannot fill",
        "the others answered",
        ("rows.jsonl", "--question", "Is it {what}?", "--bad-rows", "skip"),
        {"a.png": PNG, "rows.jsonl": lines({"image": "a.png", "what": "red"}, {"image": "a.png"})},
        {"1": "a.png", "2": REFUSED},
        told=("Is it red?", "1 row cannot be asked and is a failure: 1 × there is no column"),
    ),
    Case(
        "ids of a table with a gap",
        "whole numbers, and the line's number in the gap",
        ("rows.jsonl",),
        {"a.png": PNG, "rows.jsonl": lines({"image": "a.png", "id": 7.0}, {"image": "a.png", "id": None})},
        {"7": "a.png", "2": "a.png"},
        source="pandas-dev/pandas #28335",
    ),
]

WITHOUT: Final = [
    Case(
        "questions without an image beside one with it",
        "failures of these rows",
        ("rows.jsonl",),
        {"a.png": PNG, "rows.jsonl": lines({"image": "a.png", "question": "Red?"}, {"question": "Hi?"})},
        {"1": "a.png", "2": REFUSED},
        told=(
            '"without_image": 0, "no_image": 1',
            "The row has no image, and other rows of the run have one",
        ),
    ),
    Case(
        "the same, wanted",
        "all of them asked",
        ("rows.jsonl", "--text-only"),
        {"a.png": PNG, "rows.jsonl": lines({"image": "a.png", "question": "Red?"}, {"question": "Hi?"})},
        {"1": "a.png", "2": NONE},
        told=('"without_image": 1, "no_image": 0',),
    ),
    Case(
        "questions alone",
        "all of them asked, and told how many",
        ("rows.jsonl",),
        {"rows.jsonl": lines({"question": "Hi?"}, {"question": "Ho?"})},
        {"1": NONE, "2": NONE},
        told=('"without_image": 2, "no_image": 0',),
    ),
]

PARAMETERS: Final = [
    Case(
        "columns that are named like parameters",
        "those that can decide to do so",
        ("rows.jsonl",),
        {"a.png": PNG, "rows.jsonl": lines({"image": "a.png", "max_new_tokens": 3, "stop": "END"})},
        {"1": "a.png"},
        told=('"deciding_columns": {"max_new_tokens": 1, "stop": 1}, "idle_columns": {}',),
    ),
    Case(
        "the same, left out",
        "none to decide",
        ("rows.jsonl", "--parameters", "none"),
        {"a.png": PNG, "rows.jsonl": lines({"image": "a.png", "max_new_tokens": 3, "stop": "END"})},
        {"1": "a.png"},
        told=('"deciding_columns": {}, "idle_columns": {"max_new_tokens": 1, "stop": 1}',),
    ),
    Case(
        "the same, one of them named",
        "this one to decide",
        ("rows.jsonl", "--parameters", "stop"),
        {"a.png": PNG, "rows.jsonl": lines({"image": "a.png", "max_new_tokens": 3, "stop": "END"})},
        {"1": "a.png"},
        told=('"deciding_columns": {"stop": 1}, "idle_columns": {"max_new_tokens": 1}',),
    ),
    Case(
        "values that are no such parameters",
        "none to decide",
        ("rows.jsonl",),
        {
            "a.png": PNG,
            "rows.jsonl": lines({"image": "a.png", "max_new_tokens": "many", "detail": "a detailed drawing"}),
        },
        {"1": "a.png"},
        told=('"deciding_columns": {}, "idle_columns": {"max_new_tokens": 1, "detail": 1}',),
    ),
    Case(
        "the same, all of them, with a value that is no such parameter",
        "to be told of it",
        ("rows.jsonl", "--parameters", "all"),
        {"a.png": PNG, "rows.jsonl": lines({"image": "a.png", "max_new_tokens": "many"})},
        code=2,
        told=("line 1: max_new_tokens: Input should be a valid integer",),
    ),
]

TABLES: Final = [
    Case(
        "semicolons, as spreadsheets of half of Europe write CSV",
        "the header's columns",
        ("rows.csv", "--question", "{frage}"),
        {"a.png": PNG, "rows.csv": b'image ;frage\r\na.png;"Ist es rot, ""ganz""?"\r\n'},
        {"2": "a.png"},
        told=('is read with ";" between its cells; --delimiter names another.', r"Ist es rot, \"ganz\"?"),
        source="ImageMarkup/isic-challenge-scoring #14",
    ),
    Case(
        "a first line that names the delimiter",
        "that line to be followed, in any case of its letters",
        ("rows.csv",),
        {"a.png": PNG, "rows.csv": b"SEP=|\r\nimage|alt, text\r\na.png|A, B\r\n"},
        {"3": "a.png"},
        told=('with "|" between',),
        source="pandas-dev/pandas #47303, python/cpython #109644",
        helps={"--delimiter": ("|",)},
    ),
    Case(
        "one column",
        "that no delimiter is found in its names",
        ("rows.csv",),
        {"a;b.png": PNG, "rows.csv": b"image\na;b.png\n"},
        {"2": "a;b.png"},
        source="pandas-dev/pandas #53035",
    ),
    Case(
        "a delimiter that nothing tells",
        "to name it",
        ("rows.csv", "--delimiter", "^", "--image-column", "pic"),
        {"a.png": PNG, "rows.csv": b"pic^alt\na.png^A\n"},
        {"2": "a.png"},
    ),
    Case(
        "a delimiter that the file tells otherwise",
        "the named one",
        ("rows.csv", "--delimiter", "|", "--image-column", "alt"),
        {"a.png": PNG, "rows.csv": b"sep=;\r\nimage;x|alt\r\nA;B|a.png\r\n"},
        {"3": "a.png"},
    ),
    Case(
        "a delimiter at each line's end",
        "no column of nothing",
        ("rows.csv",),
        {"a.png": PNG, "rows.csv": b"image,alt\na.png,A,\na.png,B,,\n,\n"},
        {"2": "a.png", "3": "a.png"},
        source="pandas-dev/pandas #14124",
    ),
    Case(
        "an index without a name before the columns",
        "the columns that have names",
        ("rows.csv", "--question", "{column 1} {alt}"),
        {"a.png": PNG, "rows.csv": b",image,alt,\n0,a.png,A,\n"},
        {"2": "a.png"},
        told=("0 A",),
        source="huggingface/datasets #5490",
    ),
    Case(
        "a quote that opens a cell of TSV",
        "every line to be a row",
        ("rows.tsv", "--question", "{alt}"),
        {"a.png": PNG, "rows.tsv": b'image\talt\na.png\t"Lorem Ipsum" dolor\na.png\t20" wide\na.png\t"x\n'},
        {"2": "a.png", "3": "a.png", "4": "a.png"},
        told=(r"\"Lorem Ipsum\" dolor", r"20\" wide", r"\"x"),
        source="pola-rs/polars #22312, rewicks/ersatz #1, pandas-dev/pandas #39857, NVIDIA/cudf #10490",
    ),
    Case(
        "TSV with cells in quotes",
        "the text without them",
        ("rows.tsv", "--quoting", "quotes", "--question", "{alt}"),
        {"a.png": PNG, "rows.tsv": b'image\talt\na.png\t"val "" 2"\n'},
        {"2": "a.png"},
        told=(r"val \" 2",),
        source="adaltas/node-csv-parse #323",
    ),
    Case(
        "the same without a word of it",
        "to be told that quotes are text",
        ("rows.tsv",),
        {"a.png": PNG, "rows.tsv": b'image\talt\na.png\t"val "" 2"\n'},
        {"2": "a.png"},
        told=("1 row has cells in quotes, which are part of the text; --quoting quotes",),
    ),
    Case(
        "a cell of TSV over two lines",
        "no lost line",
        ("rows.tsv",),
        {"a.png": PNG, "rows.tsv": b'image\talt\na.png\t"one\ntwo"\n'},
        code=2,
        told=("line 3: 1 cells, but the header names 2 columns; a cell holds no tab and no line end",),
    ),
    Case(
        "a cell of TSV over a tab",
        "no text in another column",
        ("rows.tsv",),
        {"a.png": PNG, "rows.tsv": b'image\talt\na.png\t"one\ttwo"\n'},
        code=2,
        told=("line 2: 3 cells, but the header names 2 columns; a cell holds no tab and no line end",),
    ),
    Case(
        "UTF-16, as spreadsheets save Unicode text",
        "the text",
        ("rows.csv",),
        {NFC: PNG, "rows.csv": f"image\tquestion\n{NFC}\tWas?\n".encode("utf-16")},
        {"2": NFC},
        told=("with a tab between",),
        source="HKUDS/Vibe-Trading #862",
        helps={"--delimiter": ("tab",)},
    ),
    Case(
        "JSON in UTF-16",
        "the text",
        ("rows.jsonl",),
        {"a.png": PNG, "rows.jsonl": '{"image": "a.png", "question": "Où?"}\n'.encode("utf-16-le"), "x": b""},
        code=2,
        told=("line 1: not JSON",),
        source="huggingface/datasets #5969",
    ),
    Case(
        "the same, named",
        "the text",
        ("rows.jsonl", "--encoding", "utf-16-le"),
        {"a.png": PNG, "rows.jsonl": '{"image": "a.png", "question": "Où?"}\n'.encode("utf-16-le")},
        {"1": "a.png"},
        told=(r"O\u00f9?",),
        source="huggingface/datasets #5969",
    ),
    Case(
        "JSON in UTF-16 with a mark, its bytes in the other order",
        "the text",
        ("rows.jsonl",),
        {"a.png": PNG, "rows.jsonl": '\ufeff{"image": "a.png", "question": "Où?"}\n'.encode("utf-16-be")},
        {"1": "a.png"},
        told=(r"O\u00f9?",),
    ),
    Case(
        "a mark before the header",
        "the first column by its name",
        ("rows.csv",),
        {"a.png": PNG, "rows.csv": b"\xef\xbb\xbfimage,alt\na.png,A\n"},
        {"2": "a.png"},
        source="UKGovernmentBEIS/inspect_ai #5353",
    ),
    Case(
        "Latin-1 in a question",
        "to know which option reads it",
        ("rows.csv",),
        {"a.png": PNG, "rows.csv": "image,question\na.png,Où?\n".encode("latin-1")},
        code=2,
        told=(
            "line 2: messages: the text holds bytes that are no characters; --encoding says what the file is",
        ),
    ),
    Case(
        "Latin-1 in another column",
        "to be told that its letters are not right",
        ("rows.csv",),
        {"a.png": PNG, "rows.csv": "image,alt\na.png,Été\n".encode("latin-1")},
        {"2": "a.png"},
        told=("rows.csv is not in UTF-8 (line 2), and its bytes are kept as they are: --encoding says",),
    ),
    Case(
        "the same of JSON",
        "to be told that its letters are not right",
        ("rows.jsonl",),
        {"a.png": PNG, "rows.jsonl": '{"image": "a.png", "alt": "Été"}\n'.encode("latin-1")},
        {"1": "a.png"},
        told=("rows.jsonl is not in UTF-8 (line 1), and its bytes are kept as they are: --encoding says",),
    ),
    Case(
        "an encoding that is not the file's",
        "no wrong letters",
        ("rows.csv", "--encoding", "ascii"),
        {"a.png": PNG, "rows.csv": "image,alt\na.png,Été\n".encode("latin-1")},
        code=2,
        told=("rows.csv is not in ascii: its byte 17 is none; --encoding names another one.",),
    ),
    Case(
        "lines that end in carriage returns",
        "the rows",
        ("rows.csv",),
        {"a.png": PNG, "rows.csv": b"image,alt\ra.png,A\ra.png,B\r"},
        {"2": "a.png", "3": "a.png"},
    ),
]

NAMES: Final = [
    Case(
        "backslashes of Windows",
        "the file; and the one that is really called so",
        ("rows.jsonl",),
        {
            "images/test.jpg": PNG,
            "odd\\name.png": PNG,
            "odd/name.png": PNG,
            "rows.jsonl": lines({"image": ".\\images\\test.jpg"}, {"image": "odd\\name.png"}),
        },
        {"1": "images/test.jpg", "2": "odd\\name.png"},
        source="wkentaro/labelme #1725, microsoft/CNTK #1321",
    ),
    Case(
        "a path with a drive",
        "to know what to write instead",
        ("rows.json",),
        {"rows.json": json.dumps({"D:/xm0/anime/a.png": {"caption": "x"}}).encode()},
        {"D:/xm0/anime/a.png": REFUSED},
        told=('"D:/xm0/anime/a.png is a path of Windows: write it relative to --image-root.',),
        source="bmaltais/kohya_ss #339",
        helps={"--image-root": None},
    ),
    Case(
        "another Unicode form on the disk",
        "the file",
        ("rows.csv",),
        {NFD: PNG, f"{NFC}.d/{NFD}": PNG, "rows.csv": f"image\n{NFC}\n{NFD}.d/{NFC}\n".encode()},
        {"2": NFD, "3": f"{NFC}.d/{NFD}"},
        source="renpy/renpy #2327, unmade/shelf-back #50",
    ),
    Case(
        "a folder with brackets in its name",
        "the folder's images",
        ("set [raw]",),
        {"set [raw]/a.png": PNG, "set r/b.png": PNG},
        {"a.png": "set [raw]/a.png"},
    ),
    Case(
        "a folder with brackets in its name, and a pattern",
        "the folder's images",
        ("set [raw]/*.png",),
        {"set [raw]/a.png": PNG, "set r/b.png": PNG},
        {"a.png": "set [raw]/a.png"},
    ),
]

WITHIN_A_SPLIT: Final = {
    "set/train/metadata.jsonl": lines(
        {"file_name": "train/a.png", "alt": "red"}, {"file_name": "b.png", "alt": "blue"}
    ),
    "set/train/a.png": PNG,
    "set/train/b.png": PNG,
}

FOLDERS: Final = [
    Case(
        "suffixes of JPEG in any case",
        "all of them",
        ("photos",),
        {f"photos/{name}": PNG for name in ("a.jfif", "b.JPE", "c.mpo", "d.JPEG", "e.Jpg")},
        {name: f"photos/{name}" for name in ("a.jfif", "b.JPE", "c.mpo", "d.JPEG", "e.Jpg")},
        source="supervisely/supervisely #839, huggingface/datasets #4514, bmaltais/kohya_ss #454",
    ),
    Case(
        "images without a suffix",
        "to be told of them",
        ("photos",),
        {"photos/a.png": PNG, "photos/b": PNG, "photos/c.download": PNG, "photos/d": b"text"},
        {"a.png": "photos/a.png"},
        told=("3 files skipped", "at least 2 of them are images by their first bytes (--sniff)"),
    ),
    Case(
        "the same, looked into",
        "the images",
        ("photos", "--sniff"),
        {"photos/a.png": PNG, "photos/b": PNG, "photos/c.download": PNG, "photos/d": b"text"},
        {"a.png": "photos/a.png", "b": "photos/b", "c.download": "photos/c.download"},
        told=("1 file skipped: 1 without a suffix",),
    ),
    Case(
        "thumbnails of a NAS and of macOS, deleted files, checkpoints of notebooks",
        "the photos alone, and a word of the rest",
        ("photos", "--recursive"),
        {
            f"photos/{name}": PNG
            for name in (
                *("a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_XL.jpg", "__MACOSX/._a.png", "sub/@eaDir/b.png"),
                *("$RECYCLE.BIN/x.png", ".ipynb_checkpoints/a-checkpoint.png", "._a.png", ".DS_Store"),
            )
        },
        {"a.png": "photos/a.png"},
        told=("5 in __MACOSX, @eaDir and the like", "2 hidden"),
        source=(
            "photoprism/photoprism #555, manyfold3d/manyfold #2545, huggingface/datasets #4115, "
            "pytorch/vision #2831, hako-mikan/sd-webui-traintrain #26, d8ahazard/sd_dreambooth_extension #44"
        ),
    ),
    Case(
        "the same in subfolders, which are only counted",
        "the photos alone to be counted",
        ("photos",),
        {"photos/a.png": PNG, "photos/sub/b.png": PNG, "photos/sub/@eaDir/b.png": PNG},
        {"a.png": "photos/a.png"},
        told=('"skipped": {"in_subfolders": 1}',),
    ),
    Case(
        "a pattern that names such a folder itself",
        "what is in it",
        ("photos/@eaDir/*.png",),
        {"photos/@eaDir/a.png": PNG},
        {"a.png": "photos/@eaDir/a.png"},
    ),
    Case(
        "a pattern that begins above such a folder",
        "what is in the folder that it names",
        ("ph*/@eaDir/*.png",),
        {"photos/@eaDir/a.png": PNG, "photos/a.png": PNG},
        {"photos/@eaDir/a.png": "photos/@eaDir/a.png"},
    ),
    Case(
        "a folder that is linked into another",
        "a word of it",
        ("photos",),
        {"photos/a.png": PNG, "more/b.png": PNG, "photos/more": link("../more")},
        {"a.png": "photos/a.png"},
        told=("Skipped: 1 link to folders, not followed",),
    ),
    Case(
        "the same, with the folders below",
        "a word of it",
        ("photos", "--recursive"),
        {"photos/a.png": PNG, "more/b.png": PNG, "photos/more": link("../more")},
        {"a.png": "photos/a.png"},
        told=('"skipped": {"links": 1}',),
    ),
    Case(
        "metadata beside the images",
        "its columns, and every image",
        ("set", "--question", "Is it {text}?", "--bad-rows", "skip"),
        {
            "set/a.png": PNG,
            "set/b.png": PNG,
            "set/metadata.jsonl": lines({"file_name": "a.png", "text": "red"}),
        },
        {"a.png": "set/a.png", "b.png": REFUSED},
        told=(
            "Is it red?",
            "is read as an ImageFolder, with the columns of",
            "for 1 image; 1 image beside have no line there (--format folder",
            "1 × there is no column",
        ),
        source="huggingface/datasets #4069, JunMa11 in huggingface/diffusers #2099",
        helps={"--format": None},
    ),
    Case(
        "metadata as Parquet",
        "its columns",
        ("set", "--question", "Is it {text}?"),
        {"set/a.png": PNG, "set/metadata.parquet": parquet(file_name=["a.png"], text=["red"])},
        {"a.png": "set/a.png"},
        told=("Is it red?",),
        helps={"--format": None},
    ),
    Case(
        "metadata above the folders of the splits",
        "its columns for all splits",
        ("set",),
        {
            "set/train/1.png": PNG,
            "set/test/3.png": PNG,
            "set/metadata.csv": b"file_name,alt\ntrain/1.png,A\ntest/3.png,B\n",
        },
        {"train/1.png": "set/train/1.png", "test/3.png": "set/test/3.png"},
        told=("with the columns of", "(--format folder --recursive reads the images alone)"),
        source="huggingface/datasets #4548",
    ),
    Case(
        "metadata in a split's folder that names its images from the whole set on",
        "the images with their columns",
        ("set", "--question", "Q?"),
        WITHIN_A_SPLIT,
        {"train/a.png": "set/train/a.png", "train/b.png": "set/train/b.png"},
        source="huggingface/diffusers #3674",
    ),
    Case(
        "the same, asked with a column",
        "the images with their columns",
        ("set", "--question", "Is it {alt}?"),
        WITHIN_A_SPLIT,
        {"train/a.png": "set/train/a.png", "train/b.png": "set/train/b.png"},
        told=("Is it red?", "Is it blue?"),
        source="huggingface/diffusers #3674",
        helps={"--format": None},
    ),
    Case(
        "an image with several lines of metadata",
        "a row each",
        ("set",),
        {
            "set/a.png": PNG,
            "set/metadata.jsonl": lines(
                {"file_name": "a.png", "question": "Red?"}, {"file_name": "a.png", "question": "Blue?"}
            ),
        },
        {"a.png": "set/a.png", "a.png (line 2)": "set/a.png"},
        told=("Red?", "Blue?"),
    ),
    Case(
        "folders of classes in those of splits",
        "the class as a column",
        ("set", "--question", "Is it a {label}?"),
        {"set/train/cat/a.png": PNG, "set/valid/dog/b.png": PNG},
        {"train/cat/a.png": "set/train/cat/a.png", "valid/dog/b.png": "set/valid/dog/b.png"},
        told=("Is it a cat?", "Is it a dog?", 'are the column \\"label\\"'),
    ),
    Case(
        "one split of them",
        "its images alone",
        ("set", "--split", "valid", "--question", "Is it a {label}?"),
        {"set/train/cat/a.png": PNG, "set/valid/dog/b.png": PNG},
        {"valid/dog/b.png": "set/valid/dog/b.png"},
        told=("Is it a dog?",),
    ),
    Case(
        "one split, with metadata above it",
        "its images with their columns",
        ("set", "--split", "test", "--question", "Is it {alt}?"),
        {
            "set/train/1.png": PNG,
            "set/test/3.png": PNG,
            "set/metadata.csv": b"file_name,alt\ntrain/1.png,red\ntest/3.png,blue\n",
        },
        {"test/3.png": "set/test/3.png"},
        told=("Is it blue?",),
        source="huggingface/datasets #7599",
    ),
    Case(
        "a metadata.csv that is about something else",
        "to know how the images are read without it",
        ("set",),
        {"set/a.png": PNG, "set/metadata.csv": b"camera,lens\nx,y\n"},
        code=2,
        told=("metadata.csv: no column names an image", "--format folder reads the images alone."),
        helps={"--image-column": None},
    ),
    Case(
        "the same, for one split",
        "to know what is wrong with it, and nothing that --split forbids",
        ("set", "--split", "test"),
        {"set/test/a.png": PNG, "set/metadata.csv": b"camera,lens\nx,y\n"},
        code=2,
        told=("metadata.csv: no column names an image",),
        helps={"--image-column": None},
    ),
    Case(
        "the same, beside a zip of images",
        "to know what is wrong with it, and not to look for images in the folder",
        ("set",),
        {"set/images.zip": zipped(("a.png", PNG)), "set/metadata.csv": b"camera,lens\nx,y\n"},
        code=2,
        told=("metadata.csv: no column names an image",),
        helps={"--image-column": None},
    ),
    Case(
        "metadata under another name",
        "to know what was not read",
        ("set",),
        {"set/metadata1000.csv": b"image\n", "set/metadata.json1": b"", "set/images/a.png": PNG},
        code=2,
        told=("There are no images", "It holds 1 .csv, 1 .json1; 1 image in subfolders (--recursive)."),
        source="huggingface/datasets #6777, huggingface/diffusers #2099",
    ),
    Case(
        "a clone of a data set of the hub",
        "its rows",
        ("clone",),
        {
            "clone/README.md": b"# A set",
            "clone/data/train-00000-of-00001.parquet": parquet(
                image=pyarrow.array([{"bytes": PNG, "path": "a.png"}])
            ),
        },
        {"1": EMBEDDED},
    ),
    Case(
        "images beside a folder that is called like that",
        "the images",
        ("set",),
        {"set/a.png": PNG, "set/data/rows.parquet": parquet(image=["b.png"])},
        {"a.png": "set/a.png"},
    ),
    Case(
        "what img2dataset writes as files",
        "the images in its folders",
        ("out",),
        {
            "out/00000/000000029.jpg": PNG,
            "out/00000/000000029.txt": b"",
            "out/00000.parquet": parquet(url=["u"], status=["success"]),
            "out/00000_stats.json": b"{}",
        },
        {"00000/000000029.jpg": "out/00000/000000029.jpg"},
        told=("1 .parquet",),
        source="rom1504/img2dataset #344",
    ),
    Case(
        "what img2dataset writes as shards",
        "the samples, and not its table of them",
        ("out",),
        {
            "out/00000.tar": tar(("000000029.jpg", PNG), ("000000029.txt", b"x")),
            "out/00000.parquet": parquet(url=["u"], status=["success"]),
            "out/00000_stats.json": b"{}",
        },
        {"000000029": EMBEDDED},
    ),
    Case(
        "what img2dataset writes as Parquet",
        "a row an image, and not the table of statistics",
        ("out",),
        {
            "out/00000.parquet": parquet(url=["https://x.example/a.jpg"], status=["success"], jpg=[PNG]),
            "out/00001.parquet": parquet(url=["https://x.example/b.jpg"], status=["success"], jpg=[PNG]),
            "out/00000_stats.json": b"{}",
        },
        {"1": EMBEDDED, "2": EMBEDDED},
    ),
]

ARCHIVES: Final = [
    Case(
        "a zip made on macOS, with a metadata file",
        "the images with their columns",
        ("set.zip", "--question", "Is it {alt}?"),
        {
            "set.zip": zipped(
                ("set/", b""),
                ("set/a.png", PNG),
                ("set/metadata.csv", b"file_name;alt\na.png;red\n"),
                ("__MACOSX/set/._a.png", b"fork"),
                ("set/.DS_Store", b""),
            )
        },
        {"set/a.png": EMBEDDED},
        told=("Is it red?", "1 in __MACOSX, @eaDir and the like", "1 hidden"),
        source="brain-score/vision #214, ultralytics/hub #89",
    ),
    Case(
        "metadata beside the zip of its images",
        "the images with their columns",
        ("set", "--question", "Is it {text}?"),
        {
            "set/images.zip": zipped(("1.png", PNG)),
            "set/metadata.jsonl": lines({"file_name": "1.png", "text": "red"}),
        },
        {"1.png": EMBEDDED},
        told=("Is it red?",),
        source="huggingface/datasets #7337",
    ),
    Case(
        "a zip whose metadata names what it does not hold",
        "to be told",
        ("set.zip",),
        {"set.zip": zipped(("a.png", PNG), ("metadata.jsonl", lines({"file_name": "b.png"})))},
        code=2,
        told=("set.zip!/metadata.jsonl, line 1: there is no image b.png",),
        source="huggingface/datasets #4311",
    ),
    Case(
        "a zip with two members of one name",
        "no lost image",
        ("set.zip", "--bad-rows", "skip"),
        {"set.zip": doubled("a.png", PNG, picture(1))},
        {"a.png (member 1)": REFUSED, "a.png": EMBEDDED},
        told=("1 × a later member has the same name",),
    ),
    Case(
        "a form of archive that is not read",
        "to know what to do",
        ("set.7z",),
        {"set.7z": b"7z"},
        code=2,
        told=("set.7z is packed in a form that is not read: unpack it first.",),
    ),
    Case(
        "a shard that tar wrote in the disk's order",
        "the samples whole",
        ("s.tar", "--question", "Is it {txt}?"),
        {"s.tar": tar(("a.png", PNG), ("b.png", PNG), ("b.txt", b"blue"), ("a.txt", b"red"))},
        {"a": EMBEDDED, "b": EMBEDDED},
        told=("Is it red?", "Is it blue?"),
        source="webdataset/webdataset #407, #11",
    ),
    Case(
        "a sample with one name twice",
        "to be told which, beside all others",
        ("s.tar",),
        {
            "s.tar": tar(
                *(("261c.jpg", PNG), ("261c.json", b"{}"), ("261c.jpg", PNG)),
                *(("b.left.png", PNG), ("b.right.png", PNG)),
            )
        },
        code=2,
        told=(
            "2 rows cannot be asked",
            "sample 261c: it has two members of the extension jpg",
            "sample b: the sample has several images, left.png, right.png; choose with --image-column",
        ),
        source="webdataset/webdataset #286, #20",
        helps={"--image-column": ("left.png", "--bad-rows", "skip")},
    ),
    Case(
        "the same names in each shard",
        "ids that tell them apart",
        ("s-{0..1}.tar", "--shard-ids"),
        {"s-0.tar": tar(("a.png", PNG)), "s-1.tar": tar(("a.png", PNG))},
        {"s-0/a": EMBEDDED, "s-1/a": EMBEDDED},
        source="webdataset/webdataset #157, #327",
    ),
    Case(
        "the same without the option",
        "to know the option",
        ("s-{0..1}.tar",),
        {"s-0.tar": tar(("a.png", PNG)), "s-1.tar": tar(("a.png", PNG))},
        code=2,
        told=("sample a: ", "s-0.tar has a sample of this key, too: --shard-ids makes SHARD/KEY the id"),
        source="webdataset/webdataset #157",
    ),
    Case(
        "dots before numbers in names",
        "a sample each, with its text",
        ("s.tar", "--question", "Is it {txt}?"),
        {
            "s.tar": tar(
                *(("22.05.png", PNG), ("22.05.txt", b"red"), ("22.06.png", PNG), ("22.06.txt", b"blue")),
                *(("x/Track 2.0 (Clean).png", PNG), ("x/Track 2.0 (Clean).txt", b"green")),
            )
        },
        {"22.05": EMBEDDED, "22.06": EMBEDDED, "x/Track 2.0 (Clean)": EMBEDDED},
        told=("Is it red?", "Is it blue?", "Is it green?"),
        source="huggingface/datasets #7144, #6888, webdataset/webdataset #237",
    ),
    Case(
        "a dot in a folder's name",
        "the sample's own key",
        ("s.tar",),
        {"s.tar": tar(("train.v1/0001.png", PNG), ("train.v1/0002.png", PNG))},
        {"train.v1/0001": EMBEDDED, "train.v1/0002": EMBEDDED},
        source="macrodata-labs/refiner #124",
    ),
    Case(
        "members that are no part of a row",
        "to be told how many",
        ("s.tgz",),
        {
            "s.tgz": tar(
                *(("a.png", PNG), ("a.cls", b"3"), ("a.npy", b""), ("README", b"")),
                *(("__MACOSX/a.png", PNG), ("._a.png", b"")),
            )
        },
        {"a": EMBEDDED},
        told=("3 files skipped: 1 without a suffix, 1 .cls, 1 .npy; 1 hidden; 1 in __MACOSX",),
        source="udacity/deep-learning-v2-pytorch #217, alinlab/CSI #31",
    ),
    Case(
        "Parquet of img2dataset, with downloads that failed",
        "the bytes that are there, and the failures as such",
        ("00000.parquet",),
        {
            "00000.parquet": parquet(
                url=["https://x.example/a.jpg", "https://x.example/b.jpg"],
                key=["000000000", "000000001"],
                status=["success", "failed_to_download"],
                error_message=[None, "HTTP Error 404: Not Found"],
                jpg=[PNG, None],
            )
        },
        {"1": EMBEDDED, "2": REFUSED},
        told=("img2dataset has not downloaded https://x.example/b.jpg: failed_to_download: HTTP Error 404",),
        source="rom1504/img2dataset #452, #11",
    ),
]

FORMS: Final = [
    Case(
        "COCO's captions",
        "a row an image, with what is known of it",
        ("captions.json", "--question", "{captions} {categories}"),
        {
            "a.png": PNG,
            "captions.json": json.dumps(
                {
                    "info": {},
                    "images": [{"id": 9, "file_name": "a.png", "height": 8}],
                    "annotations": [
                        {"id": 1, "image_id": 9, "caption": "A box."},
                        {"id": 2, "image_id": 9, "category_id": 4},
                    ],
                    "categories": [{"id": 4, "name": "box"}],
                }
            ).encode(),
        },
        {"9": "a.png"},
        told=("A box.", "box", "captions.json is read as COCO."),
    ),
    Case(
        "COCO with questions about its images",
        "a row a question",
        ("questions.json",),
        {
            "a.png": PNG,
            "questions.json": json.dumps(
                {
                    "images": [{"id": 9, "file_name": "a.png"}],
                    "annotations": [{"id": 1, "image_id": 9, "question": "What?"}],
                }
            ).encode(),
        },
        {"1": "a.png"},
        told=("What?",),
    ),
    Case(
        "COCO as Label Studio exports it on Windows",
        "the image",
        ("result.json",),
        {
            "images/90fb-a.jpg": PNG,
            "result.json": json.dumps(
                {"images": [{"id": 0, "file_name": "images\\90fb-a.jpg"}], "annotations": []}, indent=2
            ).encode(),
        },
        {"0": "images/90fb-a.jpg"},
        source="HumanSignal/label-studio-converter #139, HumanSignal/label-studio #7294",
    ),
    Case(
        "VQA's questions",
        "a row a question, about COCO's images",
        ("questions.json", "--image-root", "val2014"),
        {
            "val2014/COCO_val2014_000000000042.jpg": PNG,
            "questions.json": json.dumps(
                {
                    "data_subtype": "val2014",
                    "questions": [{"image_id": 42, "question": "What?", "question_id": 420}],
                }
            ).encode(),
        },
        {"420": "val2014/COCO_val2014_000000000042.jpg"},
        told=("What?", "is read as VQA questions"),
    ),
    Case(
        "VQA's answers",
        "to know that they are the other file",
        ("annotations.json",),
        {"annotations.json": b'{"annotations": [{"question_id": 420, "image_id": 42, "answers": []}]}'},
        code=2,
        told=("these are VQA's answers: name the file of its questions instead",),
    ),
    Case(
        "kohya's metadata, with keys that have no suffix",
        "the images",
        ("meta_cap.json", "--question", "Is it {caption}?"),
        {
            "1_x/a.webp": PNG,
            "b.png": PNG,
            "meta_cap.json": b'{\n "1_x/a": {"caption": "red"},\n "b.png": {"caption": "blue"}\n}\n',
        },
        {"1_x/a": "1_x/a.webp", "b.png": "b.png"},
        told=("Is it red?", "as kohya's scripts write them"),
        source="bmaltais/kohya_ss #2761",
    ),
    Case(
        "tasks of Label Studio with files of its machine",
        "the files",
        ("tasks.json",),
        {
            "my set/0 #1.png": PNG,
            "tasks.json": json.dumps(
                [
                    {
                        "id": 5,
                        "data": {"image": "/data/local-files/?d=my%20set/0%20%231.png"},
                        "annotations": [],
                    },
                    {"id": 6, "data": {"image": "/data/local-files/?d=\\my set\\0%20%231.png"}},
                ]
            ).encode(),
        },
        {"5": "my set/0 #1.png", "6": "my set/0 #1.png"},
        source="HumanSignal/label-studio #6949, #4903",
    ),
    Case(
        "an object of no known form",
        "to know what is known",
        ("settings.json",),
        {"settings.json": b'{\n "lr": 3,\n "name": "x"\n}\n'},
        code=2,
        told=("of no known form (COCO, VQA, kohya, a list under data", 'its keys are "lr", "name"'),
    ),
    Case(
        "lines of JSON under the name of JSON, packed",
        "the rows",
        ("rows.json.gz",),
        {"a.png": PNG, "rows.json.gz": gzip.compress(lines({"image": "a.png"}, {"image": "a.png"}))},
        {"1": "a.png", "2": "a.png"},
    ),
]

CASES: Final = [*BAD_ROWS, *WITHOUT, *PARAMETERS, *TABLES, *NAMES, *FOLDERS, *ARCHIVES, *FORMS]
