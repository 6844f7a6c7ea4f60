"""WebDataset shards: samples by key, images by place in the shard, and what is refused."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from contract.failure import FailureCode
from contract.job import ImageMember
from producer.rows import Embedded, Row
from producer.sources import Source, SourceError, SourceOptions, open_source
from producer.sources.shards import shard_names


def opened(source: str | Path, **options: Any) -> Source:
    return open_source(str(source), SourceOptions(**options))


def rows(source: str | Path, **options: Any) -> list[Row]:
    return list(opened(source, **options).rows())


def content_of(source: Source, row: Row) -> bytes:
    """As the worker or the producer would read it."""
    if isinstance(row.image, Embedded):
        return source.read(row.image.place)
    assert isinstance(row.image, ImageMember)
    with row.image.to_path().open("rb") as stream:
        stream.seek(row.image.offset)
        return stream.read(row.image.size_bytes)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


MEMBERS = [
    ("a.b/key é🙂 " + "long" * 40 + ".JPG", b"picture one"),
    ("a.b/key é🙂 " + "long" * 40 + ".txt", b"A caption.\n"),
    (
        "a.b/key é🙂 " + "long" * 40 + ".json",
        b'{"question": "Q?", "url": "https://example.org/x.jpg", "seed": 4}',
    ),
    ("a.b/.hidden.jpg", b"?"),
    ("plain", b"?"),
    ("two.seg.png", b"mask"),
    ("two.png", b"picture two"),
    ("three.image.webp", b"picture three"),
    ("three.npy", b"numbers"),
]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_samples_of_a_shard(tmp_path: Path, suffix: str) -> None:
    shard = write_tar(tmp_path / f"shard{suffix}", MEMBERS)
    source = opened(shard)
    found = list(source.rows())
    key = MEMBERS[0][0].removesuffix(".JPG")
    assert [row.id for row in found] == [key, "two", "three"]
    assert [row.name for row in found] == [MEMBERS[0][0], "two.png", "three.image.webp"]
    assert found[0].columns == {"url": "https://example.org/x.jpg", "seed": 4, "txt": "A caption."}
    assert [question.messages for question in found[0].questions] == ["Q?"]
    assert found[0].offered == {"seed": 4}
    assert isinstance(found[0].image, ImageMember if suffix == ".tar" else Embedded)
    pictures = [b"picture one", b"picture two", b"picture three"]
    assert [content_of(source, row) for row in found] == pictures
    assert [content_of(source, row) for row in reversed(found)] == pictures[::-1]
    assert list(source.rows()) == found


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s.tar", [("\udce9.jpg", b"picture")])
    source = opened(shard)
    (row,) = source.rows()
    assert (row.id, row.name) == ("\udce9", "\udce9.jpg")
    assert content_of(source, row) == b"picture"


def test_shards_written_by_webdataset(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    pattern = str(tmp_path / "set-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=5, verbose=0) as sink:
        for number in range(12):
            sink.write(
                {
                    "__key__": f"dir/{number:04d}",
                    "jpg": b"picture %d" % number,
                    "txt": f"caption {number}",
                    "json": {"number": number},
                }
            )
    for form in (tmp_path, tmp_path / "set-{000000..000002}.tar", tmp_path / "set-*.tar"):
        source = opened(form)
        found = list(source.rows())
        assert [row.id for row in found] == [f"dir/{number:04d}" for number in range(12)]
        assert [row.columns for row in found] == [{"number": n, "txt": f"caption {n}"} for n in range(12)]
        assert [content_of(source, row) for row in found] == [b"picture %d" % n for n in range(12)]
    dataset = webdataset.WebDataset(f"{tmp_path}/set-{{000000..000002}}.tar", shardshuffle=False)
    assert [sample["__key__"] for sample in dataset] == [row.id for row in found]


@pytest.mark.parametrize("name", ["a-{000..012}.tar", "{0..2}-{08..11}", "x{3..1}", "plain.tar", "{a,b}"])
def test_braces_as_webdataset_reads_them(name: str) -> None:
    braceexpand = pytest.importorskip("braceexpand")
    expected = [name] if "," in name else list(braceexpand.braceexpand(name))
    assert shard_names(name) == expected


def test_remote_shards(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for number in range(2):
        shard = write_tar(tmp_path / f"s{number}.tar", [(f"{number}.jpg", b"picture %d" % number)])
        memory.pipe(f"/{request.node.name}/s{number}.tar", shard.read_bytes())
    for name in ("", "/s*.tar", "/s{0..1}.tar"):
        source = opened(f"memory://{request.node.name}{name}")
        found = list(source.rows())
        assert [content_of(source, row) for row in found] == [b"picture 0", b"picture 1"]


@pytest.mark.parametrize(
    ("members", "options", "sentence"),
    [
        ([("a.jpg", b"1"), ("a.JPG", b"2")], {}, "sample a: it has two members of the extension jpg"),
        ([("a.jpg", b"1"), ("a.png", b"2")], {}, "sample a: the sample has several images, jpg, png"),
        ([("a.jpg", b"1")], {"image_column": "png"}, 'no member has the extension "png"'),
        ([("a.jpg", b"1"), ("a.json", b"[]")], {}, "sample a: not a JSON object"),
        ([("a.jpg", b"1"), ("a.json", b"{}")], {"id_column": "n"}, 'sample a: there is no column "n"'),
        ([("a", b"1")], {}, "has no samples"),
    ],
)
def test_shards_refused(
    tmp_path: Path, members: list[tuple[str, bytes]], options: dict[str, Any], sentence: str
) -> None:
    shard = write_tar(tmp_path / "s.tar", members)
    with pytest.raises(SourceError, match=rf"s\.tar.*{sentence}"):
        rows(shard, **options)


def test_the_image_is_chosen_by_extension_and_the_id_by_column(tmp_path: Path) -> None:
    members = [("a.jpg", b"1"), ("a.PNG", b"22"), ("a.json", json.dumps({"n": 7}).encode())]
    source = opened(write_tar(tmp_path / "s.tar", members), image_column="png", id_column="n")
    (row,) = source.rows()
    assert (row.id, content_of(source, row)) == ("7", b"22")


def test_an_empty_member_is_refused_alone(tmp_path: Path) -> None:
    first, second = rows(write_tar(tmp_path / "s.tar", [("a.jpg", b""), ("b.jpg", b"1")]))
    assert first.refusal is not None
    assert (first.refusal.code, first.image) == (FailureCode.IMAGE_BROKEN, None)
    assert second.refusal is None


def test_broken_and_missing_shards(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s-0.tar", [(f"{number}.jpg", b"x" * 2000) for number in range(9)])
    with pytest.raises(SourceError, match=r"1 of 2 shards cannot be found: .*s-1\.tar"):
        rows(tmp_path / "s-{0..1}.tar")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:5000])
    with pytest.raises(SourceError, match=r"s-0\.tar"):
        rows(shard)
    shard.write_bytes(b"no tar at all" * 100)
    with pytest.raises(SourceError, match="is no tar file"):
        rows(shard)
