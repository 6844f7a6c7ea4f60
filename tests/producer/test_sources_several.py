"""Several sources as one: which rows they have, under which ids, and what they left out."""

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from contract.job import ImagePath, ImageUrl
from producer.rows import Embedded, Row
from producer.sources import Source, SourceError, SourceOptions, open_sources

PIXEL = b"not a real picture"


def opened(*sources: str | Path, **options: Any) -> Source:
    return open_sources([(str(source), SourceOptions(**options)) for source in sources])


def ids(*sources: str | Path, **options: Any) -> list[str]:
    return [row.id for row in opened(*sources, **options).rows()]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("one.jpg", "photos/a.jpg", "photos/b.png", "photos/sub/c.png", "more/a.jpg", "more/z.gif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PIXEL)
    (tmp_path / "more" / "rows.csv").write_text("image,id,alt\nz.gif,7,Z\n../one.jpg,8,One\n")
    (tmp_path / "more" / "list.txt").write_text("a.jpg\nhttps://example.org/x.png\n")
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "options", "expected"),
    [
        (["one.jpg"], {}, ["one.jpg"]),
        (["photos/sub/c.png"], {}, ["c.png"]),
        (["photos"], {}, ["a.jpg", "b.png"]),
        (["photos", "photos/", "./photos"], {}, ["a.jpg", "b.png"]),
        (["more/list.txt", "./more/list.txt"], {}, ["1", "2"]),
        (["photos/a.jpg", "photos/b.png"], {}, ["a.jpg", "b.png"]),
        (["photos/a.jpg", "more/a.jpg"], {}, ["photos/a.jpg", "more/a.jpg"]),
        (["photos", "more"], {}, ["photos/a.jpg", "photos/b.png", "more/a.jpg", "more/z.gif"]),
        (["photos", "more/*.gif"], {}, ["photos/a.jpg", "photos/b.png", "more/z.gif"]),
        (["one.jpg", "photos/**/*.png"], {}, ["one.jpg", "photos/b.png", "photos/sub/c.png"]),
        (["one.jpg", "more/rows.csv"], {}, ["one.jpg", "more/rows.csv/7", "more/rows.csv/8"]),
        (["more/list.txt", "more/rows.csv"], {}, ["list.txt/1", "list.txt/2", "rows.csv/7", "rows.csv/8"]),
        # The same image by two sources is one row.
        (["photos", "photos/a.jpg"], {}, ["a.jpg", "b.png"]),
        (["photos/a.jpg", "photos"], {}, ["a.jpg", "b.png"]),
        (["photos", "photos/sub"], {"recursive": True}, ["a.jpg", "b.png", "sub/c.png"]),
        (["photos/*.jpg", "photos/a*"], {}, ["a.jpg"]),
        (["photos", "photos/sub/c.png"], {}, ["a.jpg", "b.png", "sub/c.png"]),
        (["https://example.org/p/a.jpg?w=1"], {}, ["a.jpg"]),
        (["https://example.org/p/a.jpg", "https://example.org/b.jpg"], {}, ["p/a.jpg", "b.jpg"]),
        (["one.jpg", "https://example.org/b.jpg"], {}, ["one.jpg", "https://example.org/b.jpg"]),
    ],
)
def test_ids(
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    sources: list[str],
    options: dict[str, Any],
    expected: list[str],
) -> None:
    monkeypatch.chdir(tree)
    assert ids(*sources, **options) == expected
    assert sorted(ids(*reversed(sources), **options)) == sorted(expected)


def test_names_tell_images_of_several_folders_apart(tree: Path) -> None:
    rows = {row.id: row for row in opened(tree / "photos", tree / "more", tree / "more" / "rows.csv").rows()}
    assert {row_id: row.name for row_id, row in rows.items()} == {
        "photos/a.jpg": "photos/a.jpg",
        "photos/b.png": "photos/b.png",
        "more/a.jpg": "more/a.jpg",
        "more/z.gif": "more/z.gif",
        "more/rows.csv/7": "more/z.gif",
        "more/rows.csv/8": "one.jpg",
    }
    for row in rows.values():
        assert isinstance(row.image, ImagePath)
        assert row.image.to_path() == tree / (row.name or "")


def test_names_that_are_no_paths_stay(tree: Path) -> None:
    (tree / "more" / "list.txt").write_text(f"https://example.org/x.png\n{tree}/one.jpg\n")
    rows = list(opened(tree / "more" / "list.txt", tree / "one.jpg").rows())
    assert [row.name for row in rows] == ["https://example.org/x.png", f"{tree}/one.jpg", "one.jpg"]
    assert rows[0].image == ImageUrl(url="https://example.org/x.png")
    (tree / "rows.csv").write_text("image\na.jpg\n")
    rooted = opened(tree / "rows.csv", tree / "more" / "rows.csv", image_root=str(tree / "photos"))
    assert [row.name for row in rooted.rows()] == ["a.jpg", "z.gif", "../one.jpg"]


def test_embedded_images_are_read_from_their_own_source(tree: Path) -> None:
    def url(text: str) -> str:
        return f"data:image/png;base64,{base64.b64encode(text.encode()).decode()}"

    for name in ("x", "y"):
        lines = [url(f"{name}{number}") for number in range(3)]
        (tree / f"{name}.txt").write_text("\n".join(lines))
    source = opened(tree / "x.txt", tree / "one.jpg", tree / "y.txt")
    found = {row.id: row for row in source.rows()}
    places: dict[str, int] = {}
    for row_id, row in found.items():
        if isinstance(row.image, Embedded):
            places[row_id] = row.image.place
    assert len(set(places.values())) == len(places) == 6
    assert {row_id: source.read(place).decode() for row_id, place in places.items()} == {
        f"{name}.txt/{number + 1}": f"{name}{number}" for name in ("x", "y") for number in range(3)
    }


def test_columns_are_those_that_every_row_has(tree: Path) -> None:
    (tree / "other.csv").write_text("image,alt,artist\none.jpg,One,Me\n")
    both = opened(tree / "more" / "rows.csv", tree / "other.csv")
    assert both.columns == ("alt",)
    assert opened(tree / "other.csv", tree / "one.jpg").columns == ()
    (tree / "rows.jsonl").write_text('{"image": "one.jpg"}')
    assert opened(tree / "other.csv", tree / "rows.jsonl").columns is None


def test_an_option_is_for_the_sources_that_have_a_use_for_it(tree: Path) -> None:
    (tree / "rows.csv").write_text("pic,image\none.jpg,no\n")
    found = {row.id: row for row in opened(tree / "rows.csv", tree / "photos", image_column="pic").rows()}
    image = found["rows.csv/2"].image
    assert isinstance(image, ImagePath)
    assert image.to_path() == tree / "one.jpg"
    assert ids(tree / "photos", tree / "more" / "*.gif", recursive=True)[2] == "photos/sub/c.png"


@pytest.mark.parametrize(
    ("sources", "options", "sentence"),
    [
        (["photos", "one.jpg"], {"image_column": "pic"}, "^--image-column decides nothing: .* folder, image"),
        (["photos/*.jpg", "one.jpg"], {"recursive": True}, "--recursive decides nothing: .* in a pattern"),
        (
            ["one.jpg"],
            {"recursive": True},
            "--recursive is for folder, imagefolder; .*one.jpg is read as image",
        ),
        (["photos", "gone.jpg"], {}, "There is no folder or file .*gone.jpg"),
        (["photos", "empty"], {}, r"no images .* in .*empty\.$"),
        ([], {}, "No source is named"),
        (
            ["one.jpg", "x.mp4", "x.docx", "y.mp4"],
            {},
            r"3 of the 4 sources are neither images nor manifests: 2 \.mp4, 1 \.docx \(such as .*x.mp4\); "
            "leave such files out, or put the pattern in quotes",
        ),
        (["one.jpg", "one.txt"], {}, "one.txt is named like an image beside it, .* caption"),
    ],
)
def test_what_cannot_be_read_together(
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    sources: list[str],
    options: dict[str, Any],
    sentence: str,
) -> None:
    (tree / "empty").mkdir()
    for name in ("x.mp4", "y.mp4", "x.docx", "one.txt"):
        (tree / name).touch()
    monkeypatch.chdir(tree)
    with pytest.raises(SourceError, match=sentence):
        list(opened(*sources, **options).rows())


def test_what_is_skipped_is_counted(tree: Path) -> None:
    photos = tree / "photos"
    for name in (
        "x.MP4",
        "y.mp4",
        "z.docx",
        "README",
        "scan.0001",
        ".DS_Store",
        "sub/deep/d.jpg",
        "sub/.h.jpg",
    ):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).touch()
    (photos / "link").symlink_to(tree / "more")
    flat = opened(photos)
    assert not flat.skipped
    rows = list(flat.rows())
    assert len(rows) == 2
    assert flat.skipped.told() == (
        "5 files skipped: 2 .mp4, 1 without a suffix, 1 .docx, 1 of other kinds; 1 hidden; "
        "1 link to folders, not followed; 2 images in subfolders (--recursive)"
    )
    deep = opened(photos, recursive=True)
    list(deep.rows())
    list(deep.rows())
    assert deep.skipped.fields() == {
        "files": {".mp4": 2, ".docx": 1, "": 1, "other": 1},
        "hidden": 2,
        "links": 1,
    }
    assert "1 link to folders, not followed" in deep.skipped.told()
    both = opened(photos, tree / "more")
    list(both.rows())
    assert both.skipped.files[".csv"] == both.skipped.files[".txt"] == 1
    assert both.skipped.files[".mp4"] == 2
    pattern = opened(photos / "*.mp4", photos / "**" / "*.jpg")
    list(opened(photos / "**" / "*.jpg").rows())
    with pytest.raises(SourceError, match=r"no images .* in .*mp4\. It holds 1 \.mp4\.$"):
        list(pattern.rows())


def test_a_folder_without_images_tells_what_is_there(tree: Path) -> None:
    (tree / "papers" / "inner").mkdir(parents=True)
    for name in ("a.docx", "b.mp4", "c.mp4", "inner/x.png"):
        (tree / "papers" / name).touch()
    with pytest.raises(
        SourceError,
        match=r"in .*papers\. It holds 2 \.mp4, 1 \.docx; 1 image in subfolders \(--recursive\)\.$",
    ):
        ids(tree / "papers")


def test_folders_that_are_sources_themselves_are_not_skipped(tree: Path) -> None:
    both = opened(tree / "photos", tree / "photos" / "sub")
    assert [row.id for row in both.rows()] == ["a.jpg", "b.png", "sub/c.png"]
    assert not both.skipped


def test_many_kinds_of_files_do_not_make_a_long_sentence(tree: Path) -> None:
    for number in range(300):
        (tree / "photos" / f"file.x{number}y").touch()
        (tree / "photos" / f"file.{number}").touch()
    source = opened(tree / "photos")
    list(source.rows())
    assert len(source.skipped.files) <= 101
    assert source.skipped.files.total() == 600
    assert source.skipped.told().count(", ") == 8
    assert "592 of other kinds" in source.skipped.told()


def test_a_broken_link_is_a_row(tree: Path) -> None:
    """Its job then says that there is no such file."""
    os.symlink(tree / "gone.png", tree / "photos" / "link.png")
    rows: list[Row] = list(opened(tree / "photos").rows())
    assert [row.id for row in rows] == ["a.jpg", "b.png", "link.png"]


def test_captions_of_images_are_not_told(tmp_path: Path) -> None:
    images = ("a.jpg", "b.webp", "c.png", "in/b.png")
    (tmp_path / "in").mkdir()
    for name in (*images, "a.txt", "b.txt", "b.webp.txt", "c.caption", "d.txt", "in/a.txt"):
        (tmp_path / name).write_bytes(b"")
    source = open_sources([(str(tmp_path), SourceOptions(recursive=True))])
    assert tuple(row.id for row in source.rows()) == images
    assert source.skipped.fields() == {"files": {".txt": 2}}
