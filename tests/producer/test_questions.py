"""The run's questions: files of them, templates, what they build on, and what is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from producer.questions import Prompt, check, read_prompts, render
from producer.rows import Row
from producer.sources import SourceError


def row(**columns: Any) -> Row:
    return Row(id="r 1", name="in/a.png", image=None, columns=columns)


def texts(*questions: str) -> list[Prompt]:
    return list(read_prompts(questions, None, None))


def test_questions_of_the_command_line() -> None:
    first, second = read_prompts(["What?", "Why?"], None, ["yes", "no"])
    assert (first.id, first.text, first.choices) == ("q1", "What?", ("yes", "no"))
    assert (second.id, second.text, second.choices) == ("q2", "Why?", ("yes", "no"))
    assert render(first, row(), {}).choices == ("yes", "no")


@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_questions_of_a_file(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"prompts.{form}"
    entries: list[dict[str, Any]] = [
        {"id": "colour", "text": "Which {thing}?", "choices": ["red", "blue"]},
        {"text": "Describe.", "max_new_tokens": 9},
    ]
    if form == "csv":
        path.write_text("id,text,choices,max_new_tokens\ncolour,Which {thing}?,red|blue,\n,Describe.,,9\n")
    else:
        path.write_text(json.dumps(entries) if form == "json" else "\n".join(map(json.dumps, entries)))
    first, second, third = read_prompts(["What?"], path, None)
    assert first.id == "q1"
    assert (second.id, second.text, second.choices) == ("colour", "Which {thing}?", ("red", "blue"))
    assert (second.columns, second.parameters) == (("thing",), {})
    assert (third.id, third.parameters, third.choices) == ("q3", {"max_new_tokens": 9}, None)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Is it {a}?", "Is it x y?"),
        ("{a}{a} {first name}", "x yx y Ann"),
        ("{{a}} {{{a}}}", "{a} {x y}"),
        ("{n} {flag} {list}", '3 true ["é"]'),
        ("{id} of {name}", "r 1 of in/a.png"),
        ("{evil}", "{a} {{"),
        ("{0}", "zero"),
    ],
)
def test_templates(template: str, text: str) -> None:
    columns = {
        "a": "x y",
        "first name": "Ann",
        "n": 3,
        "flag": True,
        "list": ["é"],
        "evil": "{a} {{",
        "0": "zero",
    }
    (prompt,) = texts(template)
    assert render(prompt, row(**columns), {}).messages == text


def test_a_column_named_like_a_rows_own_goes_first() -> None:
    (prompt,) = texts("{name}")
    assert render(prompt, row(name="Ann"), {}).messages == "Ann"


def test_answers_are_filled_in_and_asked_in_order() -> None:
    prompts = texts("{answer:q3} and {a}", "Plain?", "{answer:q2}!")
    assert [prompt.id for prompt in prompts] == ["q2", "q3", "q1"]
    assert (prompts[2].answers, prompts[2].columns) == (("q3",), ("a",))
    asked = render(prompts[2], row(a=1, answer="?"), {"q3": "{b} {{"})
    assert asked.messages == "{b} {{ and 1"


@pytest.mark.parametrize(
    ("questions", "sentence"),
    [
        (["{answer:q7}"], 'Question q1 builds on the answer to "q7", .* there are "q1"'),
        (["{answer:q2}", "{answer:q1}", "What?"], 'circle, or on questions that do: "q1", "q2"'),
        (["{answer:q1}"], "circle"),
        (["{a.b}"], r"--question 1: a placeholder is \{column\}"),
        (["What?", "{a[0]}"], "--question 2: a placeholder is"),
        (["{a!r}"], "a placeholder is"),
        (["{a:>9}"], "a placeholder is"),
        (["{}"], "a placeholder is"),
        (["{answer:{a}}"], "a placeholder is"),
        (["{a"], r"braces are written \{\{"),
        (["a}"], r"braces are written \{\{"),
        ([" "], "must not be empty"),
        ([os.fsdecode(b"W\xe9")], "no characters"),
    ],
)
def test_questions_refused(questions: list[str], sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        texts(*questions)


def test_choices_need_a_question() -> None:
    with pytest.raises(SourceError, match="--choice needs --question"):
        read_prompts([], None, ["a", "b"])
    with pytest.raises(SourceError, match=r"--question 1: choices: .*at least 2"):
        read_prompts(["What?"], None, ["a"])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("p.jsonl", '{"id": "q1", "text": "B?"}', 'Two questions have the id "q1"'),
        (
            "p.jsonl",
            '{"question": "B?"}',
            'line 1: "question" is not one of id, text, choices, max_new_tokens',
        ),
        ("p.jsonl", '{"id": "b"}', 'line 1: there is no "text"'),
        ("p.jsonl", '{"text": "B?"}\n{"text": 7}', "line 2: "),
        ("p.jsonl", '{"text": "B?"}\n{', "line 2: not JSON"),
        ("p.jsonl", '{"text": "B?", "top_p": 2}', "top_p: "),
        ("p.json", '[{"text": "B?", "id": true}]', 'entry 1: "id" must be'),
        ("p.json", "[]", "has no questions"),
        ("p.csv", "text,hint\nB?,x\n", 'line 2: "hint" is not one of'),
        ("p.yaml", "text: B?", "is no file of questions"),
        ("gone.json", None, r"There is no file .*gone\.json"),
    ],
)
def test_files_of_questions_refused(tmp_path: Path, name: str, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=sentence):
        read_prompts(["A?"], tmp_path / name, None)


def test_unknown_placeholders_are_named_before_anything_is_sent() -> None:
    prompts = texts("{colour} {id} {name}")
    check(prompts, None)
    check(prompts, ("colour",))
    with pytest.raises(
        SourceError, match=r'q1: there is no column "colour"; there are "color", "id", "name"'
    ):
        check(prompts, ("color",))


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"b": 1}, 'Row r 1, question q1: there is no column "a" to fill in; there are "id", "name", "b"'),
        ({"a": None}, 'Row r 1, question q1: the column "a" is empty'),
        ({"a": " "}, "must not be empty"),
        ({"a": "\udce9"}, "no characters"),
    ],
)
def test_rows_that_fill_no_template(columns: dict[str, Any], sentence: str) -> None:
    (prompt,) = texts("{a}")
    with pytest.raises(SourceError, match=sentence):
        render(prompt, row(**columns), {})


def test_a_row_without_a_name_fills_no_name() -> None:
    (prompt,) = texts("{name}")
    with pytest.raises(SourceError, match='"name" is empty'):
        render(prompt, Row(id="1", name=None, image=None), {})
