"""Sidecars: beside the image, by every policy, and never over what a person wrote."""

import os
from pathlib import Path
from typing import Any

import pytest

from contract.job import ImageUrl
from producer.rows import AnsweredRow
from producer.sinks.answers import NO_ANSWER
from producer.sinks.sidecar import EDITED, FOREIGN, JOINED, LINK, NO_FILE, OUTSIDE, SHARED, TWICE, SidecarSink
from producer.sinks.sink import LeftAlone, SinkError, SinkOptions
from tests.support.answered import answered_row, failure


def row(folder: Path, name: str, *outcomes: Any, position: int = 0) -> AnsweredRow:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return answered_row(position, *outcomes, image=path, name=name)


def run(folder: Path, *rows: AnsweredRow, root: Path | None = None, **options: Any) -> LeftAlone:
    """A whole run in one run folder; what it left alone, rightly or not. Texts end as they are."""
    options.setdefault("final_newline", False)
    sink = SidecarSink("sidecar", root, folder / "sidecars.sqlite", SinkOptions(**options))
    sink.resume(None)
    for one in rows:
        sink.write([one])
    sink.finish(lambda: iter(rows))
    sink.close()
    rightly = sink.left_alone.keys() <= {FOREIGN, EDITED, JOINED, NO_ANSWER}
    assert rightly, sink.left_alone
    for position, reason in sink.left_alone.take_unwritten():
        assert reason not in (FOREIGN, EDITED, JOINED, NO_ANSWER)
        sink.left_alone.note(reason, next(one.name or one.id for one in rows if one.position == position))
    return sink.left_alone


@pytest.mark.parametrize(
    "name", ["a b.png", "img.v2.final.png", "猫.jpg", "\udce9.png", "x" * 251 + ".png", ".a"]
)
def test_the_stem_is_the_images(tmp_path: Path, name: str) -> None:
    assert run(tmp_path, row(tmp_path, name, "A “dog”.\n")) == {}
    sidecar = tmp_path / ((name if name == ".a" else name[:-4]) + ".txt")
    assert sidecar.read_bytes() == "A “dog”.\n".encode()


def test_the_text_is_as_asked(tmp_path: Path) -> None:
    asked = row(tmp_path, "a.png", "one", "two")
    told: dict[str, Any] = {"caption_extension": ".caption", "prefix": "<", "suffix": ">"}
    run(tmp_path, asked, separator=", ", **told)
    assert (tmp_path / "a.caption").read_text() == "<one, two>"
    run(tmp_path, asked, question="q2", **told)
    assert (tmp_path / "a.caption").read_text() == "<two>"


@pytest.mark.parametrize(
    ("policy", "first", "second"),
    [
        ("skip", "mine", "mine"),
        ("overwrite", "one", "two"),
        ("append", "mine\none", "mine\ntwo"),
        ("prepend", "one\nmine", "two\nmine"),
    ],
)
def test_a_foreign_sidecar(tmp_path: Path, policy: Any, first: str, second: str) -> None:
    sidecar = tmp_path / "a.txt"
    sidecar.write_text("mine")
    sidecar.chmod(0o640)
    for text, expected in (("one", first), ("one", first), ("two", second)):
        left = run(tmp_path, row(tmp_path, "a.png", text), sidecar_policy=policy)
        assert sidecar.read_text() == expected
        assert left == ({FOREIGN: 1} if policy == "skip" else {})
        assert sidecar.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("policy", ["skip", "overwrite", "append", "prepend"])
def test_our_own_sidecar_follows_the_answer_until_somebody_edits_it(tmp_path: Path, policy: Any) -> None:
    sidecar = tmp_path / "a.txt"
    for text in ("one", "two"):
        assert run(tmp_path, row(tmp_path, "a.png", text), sidecar_policy=policy) == {}
        assert sidecar.read_text() == text
    sidecar.write_text("two, edited")
    for _ in range(2):
        assert run(tmp_path, row(tmp_path, "a.png", "three"), sidecar_policy=policy) == {EDITED: 1}
        assert sidecar.read_text() == "two, edited"


@pytest.mark.parametrize(
    ("policy", "foreign", "text", "expected"),
    [
        ("skip", None, "one", "one\n"),
        ("skip", None, "one\n", "one\n"),
        ("overwrite", "mine", "one", "one\n"),
        ("append", "mine", "one", "mine\none\n"),
        ("append", "mine\n", "one", "mine\none\n"),
        ("append", "", "one", "one\n"),
        ("prepend", "mine", "one", "one\nmine"),
        ("prepend", "", "one", "one\n"),
    ],
)
def test_a_sidecar_ends_in_a_newline(
    tmp_path: Path, policy: Any, foreign: str | None, text: str, expected: str
) -> None:
    """But for another's text at its end."""
    sidecar = tmp_path / "a.txt"
    if foreign is not None:
        sidecar.write_text(foreign)
    for _ in range(2):
        assert run(tmp_path, row(tmp_path, "a.png", text), sidecar_policy=policy, final_newline=True) == {}
        assert sidecar.read_text() == expected
    assert run(tmp_path, row(tmp_path, "a.png", text), sidecar_policy=policy) == {}
    assert sidecar.read_text() == (expected if text.endswith("\n") else expected.removesuffix("\n"))


@pytest.mark.parametrize("policy", ["skip", "overwrite", "append", "prepend"])
def test_a_sidecar_of_a_release_that_wrote_no_newline_is_our_own(tmp_path: Path, policy: Any) -> None:
    asked = row(tmp_path, "a.png", "one")
    assert run(tmp_path, asked, sidecar_policy=policy, final_newline=False) == {}
    assert (tmp_path / "a.txt").read_text() == "one"
    assert run(tmp_path, asked, sidecar_policy=policy, final_newline=True) == {}
    assert (tmp_path / "a.txt").read_text() == "one\n"


def test_images_of_one_stem_by_their_full_names(tmp_path: Path) -> None:
    both = [row(tmp_path, "a.jpg", "jpg"), row(tmp_path, "a.png", "png", position=1)]
    assert run(tmp_path, *both, sidecar_name="full") == {}
    assert (tmp_path / "a.jpg.txt").read_text() == "jpg"
    assert (tmp_path / "a.png.txt").read_text() == "png"
    assert not (tmp_path / "a.txt").exists()
    assert "--sidecar-name full" in SHARED


def test_an_edit_of_the_foreign_part_is_kept_and_ours_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    run(tmp_path, row(tmp_path, "a.png", "one"), sidecar_policy="append")
    (tmp_path / "a.txt").write_text("mine, edited\none")
    assert run(tmp_path, row(tmp_path, "a.png", "two"), sidecar_policy="append") == {}
    assert (tmp_path / "a.txt").read_text() == "mine, edited\ntwo"
    (tmp_path / "a.txt").write_text("mine, edited\ntwo, edited")
    assert run(tmp_path, row(tmp_path, "a.png", "three"), sidecar_policy="append") == {EDITED: 1}


def test_a_change_of_policy_loses_and_resurrects_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    run(tmp_path, row(tmp_path, "a.png", "one"), sidecar_policy="append")
    assert run(tmp_path, row(tmp_path, "a.png", "two")) == {JOINED: 1}
    assert (tmp_path / "a.txt").read_text() == "mine\none"
    run(tmp_path, row(tmp_path, "a.png", "two"), sidecar_policy="overwrite")
    assert (tmp_path / "a.txt").read_text() == "two"
    run(tmp_path, row(tmp_path, "a.png", "three"), sidecar_policy="append")
    assert (tmp_path / "a.txt").read_text() == "three"


@pytest.mark.parametrize("policy", ["skip", "overwrite", "append"])
def test_two_images_of_one_stem(tmp_path: Path, policy: Any) -> None:
    both = [row(tmp_path, "a.jpg", "jpg"), row(tmp_path, "a.png", "png", position=1)]
    assert run(tmp_path, *both, sidecar_policy=policy) == {SHARED: 1}
    assert (tmp_path / "a.txt").read_text() == "jpg"
    # In another order it stays with the one that has it, unless that one is gone.
    assert run(tmp_path, *reversed(both), sidecar_policy=policy) == {SHARED: 1}
    assert (tmp_path / "a.txt").read_text() == "jpg"
    (tmp_path / "a.jpg").unlink()
    assert run(tmp_path, both[1], sidecar_policy=policy) == {}
    assert (tmp_path / "a.txt").read_text() == "png"


def test_what_has_no_sidecar_is_told(tmp_path: Path) -> None:
    url = answered_row(2, image=ImageUrl(url="https://example.org/u.png"), name="https://example.org/u.png")
    rows = [
        row(tmp_path, "failed.png", "one", failure()),
        row(tmp_path, "a.png", "one", position=1),
        url,
        row(tmp_path, "a.png", "two", position=3),
        answered_row(4),
    ]
    left = run(tmp_path, *rows)
    assert left == {NO_ANSWER: 1, NO_FILE: 2, TWICE: 1}
    assert left.examples[NO_FILE] == "https://example.org/u.png"
    assert [path.name for path in tmp_path.glob("*.txt")] == ["a.txt"]
    assert LeftAlone.from_place({"left_alone": left.to_place()}) == left


def test_mirrored_folders_keep_apart_what_has_the_same_name(tmp_path: Path) -> None:
    images, root = tmp_path / "images", tmp_path / "captions"
    root.mkdir()
    rows = [row(images, "x/a.png", "x"), row(images, "y/a.png", "y", position=1)]
    assert run(tmp_path, *rows, root=root) == {}
    assert (root / "x" / "a.txt").read_text() == "x"
    assert (root / "y" / "a.txt").read_text() == "y"
    assert not list(images.rglob("*.txt"))


def test_nothing_is_written_through_a_link_or_out_of_the_tree(tmp_path: Path) -> None:
    images, outside = tmp_path / "images", tmp_path / "outside"
    outside.mkdir()
    images.mkdir()
    (outside / "kept.txt").write_text("kept")
    (images / "a.txt").symlink_to(outside / "kept.txt")
    (images / "link").symlink_to(outside)
    (outside / "b.png").touch()
    linked = answered_row(1, image=images / "link" / "b.png", name="link/b.png")
    rows = [row(images, "a.png", "one"), linked]
    assert run(tmp_path, *rows, sidecar_policy="overwrite") == {LINK: 1, OUTSIDE: 1}
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    above = answered_row(2, image=images / "a.png", name="../a.png")
    absolute = answered_row(3, image=images / "a.png", name=str(outside / "c.png"))
    assert run(tmp_path, linked, above, absolute, root=root) == {OUTSIDE: 3}
    assert sorted(path.name for path in outside.iterdir()) == ["b.png", "kept.txt"]
    assert (outside / "kept.txt").read_text() == "kept"


def test_a_name_that_the_system_refuses_stops_no_other(tmp_path: Path) -> None:
    rows = [row(tmp_path, "x" * 251 + ".png", "long"), row(tmp_path, "a.png", "one", position=1)]
    left = run(tmp_path, *rows, caption_extension=".caption")
    assert list(left.values()) == [1]
    assert "the system refuses it" in next(iter(left))
    assert [path.name for path in tmp_path.glob("*.caption")] == ["a.caption"]
    (tmp_path / "b.txt").mkdir()
    assert len(run(tmp_path, row(tmp_path, "b.png", "one"))) == 1
    assert os.listdir(tmp_path / "b.txt") == []


@pytest.mark.parametrize("extension", [".png", "txt", "./x", "."])
def test_an_extension_that_would_harm_is_refused(tmp_path: Path, extension: str) -> None:
    with pytest.raises(SinkError, match="caption extension"):
        run(tmp_path, caption_extension=extension)
