"""Sources that are small on disk and without end in memory: refused with a sentence, in bounded memory."""

import gzip
import io
import json
import os
import random
import resource
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pyarrow
import pyarrow.parquet
import pytest

from contract.failure import FailureCode
from producer.references import SHIPPED_MAX_BYTES, Resolver
from producer.rows import Embedded
from producer.sources import SourceError, open_source
from tests.support.processes import ROOT

MIB = 2**20
PIECE = b"a" * MIB
BOMB_MIB = 1500
MEMORY_BYTES = 1_400 * MIB
"""Of addresses, with what Python and its libraries take of them."""


def packed(path: Path, *pieces: bytes, repeat: int = BOMB_MIB, level: int = 1) -> Path:
    """Pieces, of which the middle one is repeated."""
    before, again, after = pieces
    with gzip.open(path, "wb", compresslevel=level) as file:
        file.write(before)
        for _ in range(repeat):
            file.write(again)
        file.write(after)
    return path


def jsonl(folder: Path) -> tuple[Path, str]:
    good = b'{"image": "a.png"}\n'
    return packed(
        folder / "rows.jsonl.gz", good + b'{"image": "', PIECE, b'"}\n'
    ), "line 2: the line has more"


def json_list(folder: Path) -> tuple[Path, str]:
    good = b'[{"image": "a.png"}, {"image": "'
    return packed(folder / "rows.json.gz", good, PIECE, b'"}]'), "entry 2: the entry has more than 100 MiB"


def json_object(folder: Path) -> tuple[Path, str]:
    """Less dense than a file that unpacks to 200 times its size."""
    begin = b'{"images": [{"id": 1, "file_name": "'
    piece = random.Random(1).randbytes(4096).hex().encode() + PIECE
    return packed(folder / "rows.json.gz", begin, piece, b'"}]}'), "one JSON object of more than 256 MiB"


def csv_line(folder: Path) -> tuple[Path, str]:
    return packed(folder / "rows.csv.gz", b"image\n", PIECE, b"\n"), "line 2: the line has more than 100 MiB"


def csv_row(folder: Path) -> tuple[Path, str]:
    """Quoted over many lines."""
    content = (b"image,alt\nb.png,", b'"' + PIECE + b"\n" + PIECE + b'\n",', b"\n")
    return packed(folder / "rows.csv.gz", *content), "line 2: the row has more than 100 MiB"


def csv_cell(folder: Path) -> tuple[Path, str]:
    content = (b'image,alt\nb.png,"', PIECE + b"\n", b'"\n')
    return packed(folder / "rows.csv.gz", *content), "line 2: the row has more than 100 MiB"


def csv_header(folder: Path) -> tuple[Path, str]:
    return packed(folder / "rows.tsv.gz", b"", PIECE, b""), "line 1: the line has more than 100 MiB"


def file_list(folder: Path) -> tuple[Path, str]:
    return packed(folder / "rows.txt.gz", b"a.png\nb.png\n", PIECE, b""), "line 3: the line has more"


def openai(folder: Path) -> tuple[Path, str]:
    line = json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {}})
    return packed(folder / "rows.jsonl.gz", line.encode() + b"\n", PIECE, b""), "line 2: the line has more"


def zeros(folder: Path) -> tuple[Path, str]:
    """Short lines, of which there are more than a file of this size can mean."""
    path = folder / "rows.txt.gz"
    blank = (b" " * 65_535 + b"\n") * 16
    return packed(path, b"a.png\n", blank, b"", level=9), "unpacks to more than 200 times its size"


def tar_member(folder: Path) -> tuple[Path, str]:
    return tar(folder / "a.tar.gz", "a.png", BOMB_MIB * MIB), "unpacks to more than 200 times its size"


def tar_text(folder: Path) -> tuple[Path, str]:
    return tar(folder / "a.tar.gz", "a.txt", BOMB_MIB * MIB), "bytes are too many for text"


def tar_header(folder: Path) -> tuple[Path, str]:
    """A name of a gigabyte, as pax headers allow."""
    return tar(
        folder / "a.tar.gz", "x", BOMB_MIB * MIB, tarfile.XHDTYPE
    ), f"is no tar file: one of its headers has {BOMB_MIB * MIB}"


def tar(path: Path, name: str, size: int, kind: bytes = tarfile.REGTYPE) -> Path:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return packed(path, member.tobuf(), bytes(MIB), b"", repeat=size // MIB)


def parquet(folder: Path) -> tuple[Path, str]:
    path = folder / "rows.parquet"
    cell = pyarrow.array(["a" * (110 * MIB)], pyarrow.large_string())
    table = pyarrow.table({"image": pyarrow.array(["a.png"]), "alt": cell})
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    return path, 'row group 1: the column "alt" unpacks from'


def parquet_cell(folder: Path) -> tuple[Path, str]:
    """Among small ones."""
    path = folder / "rows.parquet"
    cells = pyarrow.array(["a", "a" * (110 * MIB), "a"], pyarrow.large_string())
    table = pyarrow.table({"image": ["a.png", "b.png", "c.png"], "alt": cells})
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    return path, 'row 2: "alt" has more than 100 MiB'


def parquet_column(folder: Path) -> tuple[Path, str]:
    """Of cells that are small, each for itself."""
    path = folder / "rows.parquet"
    schema = pyarrow.schema([("image", pyarrow.string()), ("alt", pyarrow.large_string())])
    cells = {"image": ["a.png"], "alt": ["a" * (20 * MIB)]}
    group = pyarrow.Table.from_pydict({name: cell * 55 for name, cell in cells.items()}, schema)
    pyarrow.parquet.write_table(group, path, compression="zstd", use_dictionary=False, write_batch_size=1)
    return path, 'row group 1: the column "alt" unpacks from'


BOMBS: list[Callable[[Path], tuple[Path, str]]] = [
    *(jsonl, json_list, json_object, csv_line, csv_row, csv_cell, csv_header, file_list, openai, zeros),
    *(tar_member, tar_text, tar_header, parquet, parquet_cell, parquet_column),
]


def bounded() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def dry_run(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """In little memory."""
    command = [sys.executable, "-m", "captionmill", "run", str(path), "--question", "What?", "--dry-run"]
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    return subprocess.run(
        [*command, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=bounded,
        env=environment,
    )


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_with_a_sentence_in_little_memory(
    bomb: Callable[[Path], tuple[Path, str]], tmp_path: Path
) -> None:
    path, sentence = bomb(tmp_path)
    assert path.stat().st_size < 20 * MIB
    ran = dry_run(path)
    assert ran.returncode == 2, ran.stderr[-2000:]
    assert ran.stderr.startswith(f"captionmill: {path}"), ran.stderr[-2000:]
    assert sentence in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_large_images_of_one_row_group_are_read_by_a_bounded_number_of_bytes(tmp_path: Path) -> None:
    """As with any image missing, the bytes are read while the rows are planned."""
    cell = os.urandom(MIB // 4) + bytes(20 * MIB - MIB // 4)
    images = pyarrow.array([None, *[cell] * 31], pyarrow.binary())
    path = tmp_path / "rows.parquet"
    table = pyarrow.table({"image": images})
    # A page each, as a page is in memory as a whole.
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False, write_batch_size=1)
    assert pyarrow.parquet.ParquetFile(path).num_row_groups == 1
    ran = dry_run(path, "--bad-rows", "skip", "--json")
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert '"rows": 32' in ran.stdout


def test_a_manifest_that_packs_well_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for number in range(200_000):
            file.write(b'{"image": "photos/%07d.png", "question": "What is in the picture?"}\n' % number)
    assert sum(1 for _ in open_source(str(path)).rows()) == 200_000


def test_seeking_in_what_is_unpacked(tmp_path: Path) -> None:
    from producer.sources.files import open_plain

    path = tmp_path / "rows.gz"
    content = b"".join(b"%d\n" % number for number in range(100_000))
    path.write_bytes(gzip.compress(content))
    stream: IO[bytes]
    with open_plain(str(path)) as stream:
        stream.seek(300_000)
        assert (stream.tell(), stream.read(10)) == (300_000, content[300_000:300_010])
        stream.seek(5)
        assert stream.readline() == io.BytesIO(content[5:]).readline()


def test_an_image_within_a_source_is_not_sent_when_it_is_too_large() -> None:
    resolver = Resolver(lambda _: bytes(SHIPPED_MAX_BYTES + 1), ship=False)
    resolved, _ = resolver.resolve(Embedded(place=3), None)
    assert resolved.content is None
    assert resolved.refusal is not None
    assert resolved.refusal.code is FailureCode.IMAGE_TOO_LARGE


@pytest.mark.parametrize("name", ["a.tgz", "a.zip"])
def test_a_large_member_of_an_archive_is_a_failure_of_its_row(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    sizes = {"a.png": 9, "b.png": SHIPPED_MAX_BYTES + 1, "c.png": 9}
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for member, size in sizes.items():
                zipped.writestr(member, bytes(size))
    else:
        with tarfile.open(path, "w:gz") as archive:
            for member, size in sizes.items():
                header = tarfile.TarInfo(member)
                header.size = size
                archive.addfile(header, io.BytesIO(bytes(size)))
    ran = dry_run(path, "--json")
    assert ran.returncode == 0, ran.stderr[-2000:]
    jobs = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"event": "job"')]
    codes = [job["failure"] and job["failure"]["code"] for job in jobs]
    assert codes == [None, FailureCode.IMAGE_TOO_LARGE, None]


def test_a_torn_file_is_told_as_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"image": "a.png"}\n' * 1000)[:-20])
    with pytest.raises(SourceError, match="cannot be read: Compressed file ended"):
        list(open_source(str(path)).rows())
