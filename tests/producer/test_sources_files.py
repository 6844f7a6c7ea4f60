"""Folders, patterns, lists of files and remote places: which images they name and in which order."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contract.installing import install_line
from contract.job import ImagePath, ImageUrl
from producer.rows import Embedded, Row
from producer.sources import SourceError, SourceOptions, open_source
from tests.support.processes import ROOT

HOSTILE = (
    " leading.png",
    "a b.PNG",
    "a\nb.png",
    "dots.in.name.jpg",
    "e\u0301 🙂.webp",
    os.fsdecode(b"\xe9.png"),
    "sub.dir/a b.PNG",
    "{brace}.png",
    "100%.png",
    "q?#.png",
)
PIXEL = b"not a real picture"
DATA_URL = "data:image/png;base64,bm90IGEgcmVhbCBwaWN0dXJl"


def rows(source: str | Path, **options: Any) -> list[Row]:
    return list(open_source(str(source), SourceOptions(**options)).rows())


def path_of(row: Row) -> Path:
    assert isinstance(row.image, ImagePath)
    return row.image.to_path()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (*HOSTILE, ".hidden.png", ".hidden/a.png", "notes.md", "sub.dir/deep/z.tiff"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PIXEL)
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos" / "sub.dir")
    return tmp_path / "photos"


def test_hostile_names_keep_their_bytes(tree: Path) -> None:
    found = rows(tree, recursive=True)
    assert {row.id for row in found} == {*HOSTILE, "sub.dir/deep/z.tiff"}
    for row in found:
        assert row.name == row.id
        assert path_of(row) == tree / row.id
        assert path_of(row).read_bytes() == PIXEL


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.tiff", None),
        ("**/*.tiff", ["deep/z.tiff"]),
        ("**/**/*.tiff", ["deep/z.tiff"]),
        ("*/z.*", ["deep/z.tiff"]),
        ("d??p/[a-z].tiff", ["deep/z.tiff"]),
        ("**", ["a b.PNG", "deep/z.tiff"]),
        ("*", ["a b.PNG"]),
    ],
)
def test_patterns(tree: Path, pattern: str, names: list[str] | None) -> None:
    if names is None:
        with pytest.raises(SourceError, match=r"no images .* in .*\*\.tiff\.$"):
            rows(tree / "sub.dir" / pattern)
        return
    found = rows(tree / "sub.dir" / pattern)
    assert [row.id for row in found] == names
    assert [path_of(row) for row in found] == [tree / "sub.dir" / name for name in names]


def test_a_relative_pattern(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.parent)
    assert path_of(rows("photos/**/*.tiff")[0]) == tree / "sub.dir/deep/z.tiff"
    monkeypatch.chdir(tree / "sub.dir")
    assert [row.name for row in rows("*/*.tiff")] == ["deep/z.tiff"]


def test_a_folder_that_looks_like_a_pattern_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "set [1]").mkdir()
    (tmp_path / "set [1]" / "a.png").touch()
    assert [row.id for row in rows(tmp_path / "set [1]")] == ["a.png"]


def test_a_list_names_paths_and_urls(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_bytes(
        b"\xef\xbb\xbfa b.png\r\n\n in/\xe9.png\n/abs/c.png\nhttps://example.org/d.png?x=1\nfile:///e%20f.png\n"
        + DATA_URL.encode()
    )
    source = open_source(str(listing), SourceOptions())
    found = list(source.rows())
    assert [row.id for row in found] == ["1", "3", "4", "5", "6", "7"]
    assert path_of(found[0]) == tmp_path / "a b.png"
    assert path_of(found[1]) == tmp_path / os.fsdecode(b" in/\xe9.png")
    assert (path_of(found[2]), found[2].name) == (Path("/abs/c.png"), "/abs/c.png")
    assert found[3].image == ImageUrl(url="https://example.org/d.png?x=1")
    assert path_of(found[4]) == Path("/e f.png")
    assert isinstance(found[5].image, Embedded)
    assert source.read(found[5].image.place) == PIXEL
    assert path_of(rows(listing, image_root="/elsewhere")[0]) == Path("/elsewhere/a b.png")
    with pytest.raises(SourceError, match=r"line 3: s3://bucket/x/ in/\\xe9\.png is no URL"):
        rows(listing, image_root="s3://bucket/x")
    listing.write_text("a b.png\n/c.png")
    first, second = rows(listing, image_root="s3://bucket/x/")
    assert (first.image, path_of(second)) == (ImageUrl(url="s3://bucket/x/a b.png"), Path("/c.png"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"image_column": "image"}, "--image-column is for csv, .* is read as folder"),
        ({"split": "train"}, "--split is for datasets, imagefolder, parquet"),
        ({"image_root": "/x"}, "--image-root is for"),
        ({"format": "csv"}, "is not one file, which csv needs"),
        ({"format": "yaml"}, '"yaml" is none of the forms image, folder, imagefolder, zip, list, csv'),
        ({"format": "parquet"}, r"no files \.parquet in"),
    ],
)
def test_options_that_decide_nothing_are_refused(tree: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        rows(tree, **options)


@pytest.mark.parametrize("name", ["*.csv", "s-{0..3}.jsonl"])
def test_a_pattern_of_tables_is_refused(tree: Path, name: str) -> None:
    with pytest.raises(SourceError, match=r"a pattern is for images, .* is read one file a time"):
        rows(tree / name)


def test_a_folder_of_two_forms_wants_a_choice(tree: Path) -> None:
    (tree / "a.tar").touch()
    with pytest.raises(SourceError, match="could be read as folder or webdataset; --format"):
        rows(tree)
    assert rows(tree, format="folder")


def test_remote_folders_patterns_and_manifests(request: pytest.FixtureRequest) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    base = f"/{request.node.name}"
    for name in ("b.png", "a b.png", "x.txt", ".h.png", "sub/c.JPG"):
        memory.pipe(f"{base}/{name}", PIXEL)
    memory.pipe(f"{base}/rows.csv", b"image,question\nsub/c.JPG,What?\nhttps://example.org/a.png,Why?\n")
    url = f"memory:/{base}"
    found = rows(url, recursive=True)
    assert [row.id for row in found] == ["a b.png", "b.png", "sub/c.JPG"]
    assert found[2].image == ImageUrl(url=f"{url}/sub/c.JPG")
    assert [row.id for row in rows(f"{url}/**/*.JPG")] == ["sub/c.JPG"]
    first, second = rows(f"{url}/rows.csv")
    assert first.image == ImageUrl(url=f"{url}/sub/c.JPG")
    assert second.image == ImageUrl(url="https://example.org/a.png")
    with pytest.raises(SourceError, match="There is no folder or file"):
        rows(f"{url}/gone.csv")


def test_a_scheme_that_nothing_reads_is_refused() -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(SourceError, match=r"gopher://example.org/a.csv cannot be opened"):
        rows("gopher://example.org/a.csv")


@pytest.mark.parametrize(
    ("module", "source", "extra"),
    [
        ("pyarrow", "{folder}/rows.parquet", "parquet"),
        ("datasets", "hf://owner/name", "datasets"),
        ("fsspec", "s3://bucket/folder", "remote"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    tmp_path: Path, module: str, source: str, extra: str
) -> None:
    (tmp_path / "rows.parquet").touch()
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from producer.sources import *\n"
        f"try: open_source({source.format(folder=tmp_path)!r}, SourceOptions())\n"
        "except SourceError as error: print(error)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert f"needs {module}, which is not installed: {install_line(extra)}" in ran.stdout


def test_a_file_url_is_a_local_path(tree: Path) -> None:
    (row,) = rows(f"file://{tree}/sub.dir")
    assert path_of(row) == tree / "sub.dir" / "a b.PNG"


def test_a_link_in_a_circle_is_one_file_and_not_the_folders_end(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "round").symlink_to("about")
    (tmp_path / "about").symlink_to("round")
    rows = list(open_source(str(tmp_path), SourceOptions(recursive=True)).rows())
    assert [row.id for row in rows] == ["a.png", "loop.png"]
