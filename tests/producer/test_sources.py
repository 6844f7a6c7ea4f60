"""Reading folders and manifests: which rows they give, and which lines are refused where."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contract.job import ImagePart, ImagePath, TextPart
from producer.questions import read_prompts, render
from producer.rows import Row
from producer.sources import SourceError, SourceOptions, open_source


def rows(source: Path, *questions: str, recursive: bool = False, choices: Any = None) -> list[Row]:
    """The rows as they are asked: those without questions of their own with `questions`."""
    prompts = read_prompts(questions, None, choices)
    opened = open_source(str(source), SourceOptions(recursive=recursive))
    return [
        replace(row, questions=row.questions or tuple(render(prompt, row, {}) for prompt in prompts))
        for row in opened.rows()
    ]


def path_of(row: Row) -> Path:
    assert isinstance(row.image, ImagePath)
    return row.image.to_path()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.PNG", "a.jpg", "c.txt", ".hidden.png", "e 🙂.webp", "sub/a.jpg", "sub/deep/z.tiff"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "again").symlink_to(tmp_path / "sub")
    return tmp_path


def test_a_folders_images_by_name(tree: Path) -> None:
    found = rows(tree, "What?", "Why?")
    assert [row.id for row in found] == ["a.jpg", "b.PNG", "e 🙂.webp"]
    assert path_of(found[0]) == tree / "a.jpg"
    assert [(question.id, question.messages) for question in found[0].questions] == [
        ("q1", "What?"),
        ("q2", "Why?"),
    ]


def test_recursion_goes_into_folders_and_not_through_links(tree: Path) -> None:
    ids = [row.id for row in rows(tree, "What?", recursive=True)]
    assert ids == ["a.jpg", "b.PNG", "e 🙂.webp", "sub/a.jpg", "sub/deep/z.tiff"]


def test_a_name_that_is_not_utf8_is_found(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xe9t\xe9.png")
    (tmp_path / name).touch()
    (row,) = rows(tmp_path, "What?")
    assert (row.id, path_of(row)) == (name, tmp_path / name)


def test_a_relative_folder_gives_absolute_paths(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.parent)
    assert path_of(rows(Path(tree.name), "What?")[0]) == tree / "a.jpg"


@pytest.mark.parametrize(
    ("name", "questions", "recursive", "sentence"),
    [
        ("empty", ("What?",), False, r"no images .* in .*empty\.$"),
        ("empty", ("What?",), True, r"no images .* in .*empty\.$"),
        ("gone", ("What?",), False, "There is no folder or file .*gone"),
        ("list.dat", ("What?",), False, "no form is known by its name; --format"),
        ("list.csv", ("What?",), False, "list.csv has no lines"),
        ("rows.jsonl", ("What?",), True, "--recursive is for folder, imagefolder; .* is read as jsonl"),
        ("tree", (" ",), False, "must not be empty"),
        ("tree", (os.fsdecode(b"W\xe9"),), False, "no characters"),
    ],
)
def test_sources_refused(
    tmp_path: Path, name: str, questions: tuple[str, ...], recursive: bool, sentence: str
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.png").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.csv").touch()
    (tmp_path / "list.dat").touch()
    (tmp_path / "rows.jsonl").write_text('{"image": "a.png"}')
    with pytest.raises(SourceError, match=sentence):
        rows(tmp_path / name, *questions, recursive=recursive)


def manifest(folder: Path, *lines: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


OPENAI = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Look:"},
            {"type": "image_url", "image_url": {"url": "in/a.png"}},
        ],
    },
]


def test_manifest_lines(tmp_path: Path) -> None:
    source = manifest(
        tmp_path,
        {"image": "in/a.png"},
        "",
        {"image": "/abs/b.png", "question": "Who?", "id": "bee"},
        {"image": "c.png", "questions": ["A?", {"id": "second", "question": "B?"}], "id": 7},
        {"messages": OPENAI},
        {"question": "No picture?"},
    )
    first, second, third, fourth, fifth = rows(source, "What?")
    assert (first.id, path_of(first), first.questions[0].messages) == ("1", tmp_path / "in/a.png", "What?")
    assert (second.id, path_of(second), second.questions[0].messages) == ("bee", Path("/abs/b.png"), "Who?")
    assert (third.id, [(q.id, q.messages) for q in third.questions]) == (
        "7",
        [("q1", "A?"), ("second", "B?")],
    )
    assert path_of(fourth) == tmp_path / "in/a.png"
    (question,) = fourth.questions
    assert question.turns(with_image=True)[1].content == (TextPart(text="Look:"), ImagePart())
    assert (fifth.id, fifth.image) == ("6", None)


def test_choices_belong_to_their_question(tmp_path: Path) -> None:
    source = manifest(
        tmp_path,
        {"image": "a.png", "question": "Red?", "choices": ["yes", "no"]},
        {"image": "a.png", "questions": ["A?", {"id": "b", "question": "B?", "choices": ["x", "y", "z"]}]},
        {"messages": OPENAI, "choices": ["left", "right"]},
        {"image": "a.png"},
        {"image": "a.png", "question": "Free?"},
    )
    found = rows(source, "Blue?", choices=["si", "no"])
    assert [[question.choices for question in row.questions] for row in found] == [
        [("yes", "no")],
        [None, ("x", "y", "z")],
        [("left", "right")],
        [("si", "no")],
        [None],
    ]


def test_a_manifests_name_that_is_not_utf8_survives(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_bytes(b'{"image": "\xe9.png"}\n{"image": "\\udce9.png"}\n')
    assert {path_of(row) for row in rows(source, "What?")} == {tmp_path / os.fsdecode(b"\xe9.png")}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "not JSON: .* at column"),
        ("[]", "not a JSON object"),
        ({"path": "a.png", "url": "b.png"}, '"path", "url" could each be meant; choose with --image-column'),
        ("[" * 100_000, "too deep"),
        ({"image": "a.png", "parameters": {"top_p": 2}}, "top_p: .*less than or equal to 1"),
        (
            {"image": "a.png", "parameters": {"num_beams": 2, "beams": 2}},
            '"beams" in "parameters" is not one of',
        ),
        ({"image": "a.png", "question": ""}, "must not be empty"),
        ({"image": "a.png", "question": 7}, "messages"),
        ({"image": "a.png", "question": "\udce9"}, "no characters"),
        ({"image": "a.png", "questions": []}, "at least one question"),
        ({"image": "a.png", "questions": [{"id": "x"}]}, 'an object of "id" and "question"'),
        ({"image": "a.png", "questions": ["A?", {"id": "q1", "question": "B?"}]}, "ids must differ"),
        ({"image": "a.png", "question": "A?", "questions": ["B?"]}, "only one of question, questions"),
        ({"image": "a.png", "question": "A?", "choices": ["yes"]}, "choices: .* at least 2"),
        ({"image": "a.png", "question": "A?", "choices": ["yes", " yes"]}, "choices must differ"),
        ({"image": "a.png", "questions": ["A?"], "choices": ["yes", "no"]}, '"choices" stands beside'),
        ({"image": "a.png", "choices": ["yes", "no"]}, '"choices" stands beside'),
        ({"image": "a.png", "question": "A?", "id": True}, '"id" must be'),
        ({"image": "a.png", "messages": OPENAI[:1]}, "last one a user turn"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 'has no "url"'),
        ({"messages": "What?"}, '"messages" must be a list'),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: Any, sentence: str) -> None:
    source = manifest(tmp_path, {"image": "a.png", "question": "Good?"}, "", line)
    with pytest.raises(SourceError, match=rf"rows\.jsonl, line 3: .*{sentence}"):
        rows(source)


@pytest.mark.parametrize(
    ("line", "code", "sentence"),
    [
        ({"image": ""}, "no_image", '"image" is empty; --text-only'),
        ({"image": 7}, "no_image", "7 names no image"),
        (
            {"image": ["a.png", "b.png"], "question": "<image>?"},
            "invalid_job",
            "2 images, and its text places 1",
        ),
        ({"image": "data:image/png;base64,A"}, "invalid_job", "not base64"),
        ({"image": "data:text/html,A"}, "invalid_job", "begins with data:image"),
        ({"image": "a\0.png"}, "invalid_job", "null character"),
        ({"imag": "What?"}, "no_image", r'nor does it bring a "question".*\(columns: "imag"\)'),
        ({"imag": "a.png", "question": "Who?"}, "no_image", '"imag" looks like one; --image-column imag'),
        ({"image": "b.png", "messages": OPENAI}, "invalid_job", "2 images"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "no_image", "places one with"),
    ],
)
def test_a_row_whose_image_is_not_to_be_had_fails_alone(
    tmp_path: Path, line: Any, code: str, sentence: str
) -> None:
    good = {"image": "a.png", "question": "Good?"}
    first, bad, last = rows(manifest(tmp_path, good, line, good))
    assert (first.refusal, last.refusal) == (None, None)
    assert bad.refusal is not None
    assert (bad.refusal.code, bad.image, bad.questions) == (code, None, ())
    assert re.search(sentence, bad.refusal.message)


def test_an_empty_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no lines"):
        rows(manifest(tmp_path, "", " "), "What?")
