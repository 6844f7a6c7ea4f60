"""What rows mean together: runs of pictures and of text, columns named like parameters, and no odd output."""

import csv
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from captionmill.dry_run import look
from contract.job import GenerationParameters
from producer.planner import Planned
from producer.question_planner import QuestionPlanner
from producer.questions import read_prompts
from producer.rows import Row
from producer.sinks.kinds import KINDS, open_sinks
from producer.sinks.sink import SinkOptions
from producer.sources import SourceError, SourceOptions
from producer.submission import Submission
from tests.producer.test_cli import ask_all, worker
from tests.producer.test_trade_rows import captionmill
from tests.support.answered import answered_row, read_path, record_in
from tests.support.command import run_command

__all__ = ["worker"]

PICTURE = {"image": "a.png", "question": "Q?"}
TEXT = {"question": "Q?"}
CHOICES = {**PICTURE, "choices": ["yes", "no"]}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its own: commands that run elsewhere clear what they take for left over."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in rows))
    return path


def planned(
    source: Path, questions: tuple[str, ...] = (), run: dict[str, Any] | None = None, **options: Any
) -> tuple[list[Row], Planned]:
    """The rows as they are planned. Raises SourceError for a run that is refused."""
    asked = Submission(
        sources=(str(source),),
        prompts=read_prompts(questions or ("Run's?",), None, None),
        parameters=GenerationParameters.model_validate(run or {}),
        options=SourceOptions(**options),
    )
    looked, found = look(asked, 1000)
    return looked.first, found


def failures(rows: list[Row]) -> list[str | None]:
    return [None if row.refusal is None else row.refusal.code.value for row in rows]


def test_questions_without_a_picture_beside_pictures_fail_unless_they_are_wanted(tmp_path: Path) -> None:
    source = written(tmp_path, {**TEXT, "note": "\udce9 \ud800 é"}, PICTURE, TEXT)
    rows, found = planned(source)
    assert failures(rows) == ["no_image", None, "no_image"]
    assert (found.notes.with_image, found.notes.without_image, found.notes.no_image) == (1, 0, 2)
    assert rows[0].columns == {"note": "\udce9 \ud800 é"}
    rows, found = planned(source, text_only=True)
    assert failures(rows) == [None, None, None]
    assert found.notes.told() == ["Asked without an image: 2 rows of 3."]


def test_a_source_of_text_alone_is_asked_and_told(tmp_path: Path) -> None:
    rows, found = planned(written(tmp_path, TEXT, {"messages": [{"role": "user", "content": "Hi?"}]}))
    assert failures(rows) == [None, None]
    assert found.notes.told() == ["Asked without an image: 2 rows of 2."]


@pytest.mark.usefixtures("worker")
def test_the_summary_tells_what_was_asked_without_a_picture(redis_url: str, tmp_path: Path) -> None:
    source = written(tmp_path, TEXT, {**TEXT, "question": "And?"})
    ran = run_command("run", *ask_all(source, tmp_path / "out", redis_url))
    assert ran.returncode == 0, ran.stderr
    before, _, summary = ran.stdout.partition("2 questions answered, 0 failed.")
    assert "Asked without an image: 2 rows of 2." in before
    assert "Asked without an image: 2 rows." in summary


@pytest.mark.parametrize(
    ("given", "form", "proposal"),
    [
        ({"picture": "a.png", "question": "Q?"}, "jsonl", {"image_column": "picture"}),
        ({"id": "a.png", "question": "Q?"}, "jsonl", {"image_column": "id"}),
        ({"link": "https://example.org/1", "question": "Q?"}, "jsonl", {"text_only": True}),
        ({"image": None, "question": "Q?"}, "jsonl", {"text_only": True}),
        ({"title": "x"}, "jsonl", {"text_only": True}),
        ({"question_id": 1, "image_id": 262148, "question": "Q?"}, "jsonl", {"text_only": True}),
        ({"picture": "a.png", "question": "Q?"}, "csv", {"image_column": "picture"}),
        ({"title": "x", "question": "Q?"}, "csv", {"text_only": True}),
        ({"picture": "a.png", "question": "Q?"}, "parquet", {"image_column": "picture"}),
        ({"pictures": ["a.png"], "question": "Q?"}, "parquet", {"image_column": "pictures"}),
        ({"title": "x", "question": "Q?"}, "parquet", {"text_only": True}),
        ({"file": "a.png", "path": "b.png"}, "jsonl", {"image_column": "file"}),
        ({"left": {"bytes": b"1"}, "right": {"bytes": b"2"}}, "parquet", {"image_column": "left"}),
    ],
)
def test_a_run_without_any_picture_is_refused_and_what_it_proposes_helps(
    tmp_path: Path, given: dict[str, Any], form: str, proposal: dict[str, Any]
) -> None:
    path = tmp_path / f"rows.{form}"
    if form == "jsonl":
        written(tmp_path, given)
    elif form == "csv":
        path.write_text(f"{','.join(given)}\n{','.join(given.values())}\n")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([given]), path)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    asked = ("run", path, "--question", "Run's?", "--dry-run", "--json")
    refused = run_command(*asked)
    assert refused.returncode == 2
    ((option, value),) = proposal.items()
    word = f"--{option.replace('_', '-')}"
    assert word in refused.stderr
    helped = run_command(*asked, word, *([] if value is True else [value]))
    assert helped.returncode == 0, helped.stderr
    jobs = [json.loads(line) for line in helped.stdout.splitlines() if line.startswith('{"event": "job"')]
    assert [job["failure"] for job in jobs] == [None]


def test_a_row_that_is_asked_by_the_run_alone_is_not_asked_blindly(tmp_path: Path) -> None:
    source = written(tmp_path, TEXT)
    with pytest.raises(SourceError, match="nor does it bring"):
        planned(source, own_questions=False)
    rows, _ = planned(source, ("{question} Briefly.",), own_questions=False, text_only=True)
    assert failures(rows) == [None]


def test_options_of_the_run_apply_where_they_decide(tmp_path: Path) -> None:
    beams = {"num_beams": 4, "max_new_tokens": 7}
    planned(written(tmp_path, PICTURE, CHOICES), run=beams)
    planned(written(tmp_path, CHOICES), run={"length_penalty": 2.0})
    with pytest.raises(SourceError, match="--max-new-tokens, --num-beams decides nothing in this run"):
        planned(written(tmp_path, CHOICES, CHOICES), run=beams)
    greedy = {**PICTURE, "parameters": {"temperature": 0}}
    drawn = {"do_sample": True, "temperature": 0.5, "seed": 3}
    planned(written(tmp_path, PICTURE, greedy), run=drawn)
    with pytest.raises(SourceError, match="--temperature, --seed decides nothing"):
        planned(written(tmp_path, greedy), run=drawn)


@pytest.mark.parametrize(
    ("row", "run", "option", "expected"),
    [
        ({"seed": 5, "temperature": 36.6}, {}, None, {}),
        ({"seed": 5, "stop": "END"}, {"do_sample": True}, None, {"seed": 5, "stop": ("END",)}),
        ({"seed": 5, "stop": "END"}, {}, None, {"stop": ("END",)}),
        ({"seed": 5}, {"do_sample": True}, (), {}),
        ({"seed": "five", "top_p": 7}, {"do_sample": True}, None, {}),
        ({"seed": 5, "stop": "END"}, {"do_sample": True}, ("seed",), {"seed": 5}),
        ({"num_return_sequences": 9}, {}, None, {}),
        (
            {"do_sample": True, "temperature": 0.5},
            {"num_beams": 4},
            None,
            {"do_sample": True, "temperature": 0.5, "num_beams": 1},
        ),
        (
            {"temperature": 0},
            {"do_sample": True, "top_p": 0.5},
            None,
            {"do_sample": False, "top_p": 1.0, "temperature": 1.0},
        ),
        ({"parameters": {"sampler": "k_lms"}}, {}, None, {}),
        ({"parameters": {"max_new_tokens": 3}}, {}, None, {"max_new_tokens": 3}),
    ],
)
def test_columns_named_like_parameters(
    tmp_path: Path, row: dict[str, Any], run: dict[str, Any], option: Any, expected: dict[str, Any]
) -> None:
    """They decide where they can, fill templates and are carried in any case."""
    columns = ", ".join(f"{{{name}}}" for name in row)
    source = written(tmp_path, {"image": "a.png", **row}, {"image": "a.png", **row}, PICTURE)
    rows, found = planned(source, (f"Q {columns}?",), run, parameters=option)
    question_planner = QuestionPlanner(
        read_prompts([f"Q {columns}?"], None, None), GenerationParameters.model_validate(run), "high"
    )
    (one,) = question_planner.ready(rows[0], {})
    plain = GenerationParameters.model_validate(run).model_dump() | expected
    assert one.parameters.model_dump() == plain
    assert rows[0].columns == row
    told = " ".join(found.notes.told())
    for name in row:
        decides = name in expected or (name == "parameters" and expected)
        assert (f"{name} in 2 rows" in told) == (name != "parameters" or not expected), told
        if name != "parameters" and decides:
            assert re.search(rf"decide how their rows are answered: [^(]*\b{name} in", told), told


@pytest.mark.parametrize("named", [("seed",), ("detail", "stop")])
def test_a_named_column_must_be_there_and_fit(tmp_path: Path, named: tuple[str, ...]) -> None:
    with pytest.raises(SourceError, match=f"--parameters {','.join(named)} decides nothing"):
        planned(written(tmp_path, PICTURE), parameters=named)
    with pytest.raises(SourceError, match=f"line 1: {named[0]}: "):
        planned(written(tmp_path, {**PICTURE, named[0]: "no such"}), parameters=named)


def test_the_command_tells_and_refuses(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    written(tmp_path, {**CHOICES, "seed": 1})
    refused = captionmill(tmp_path, "run", "rows.jsonl", "--num-beams", "4", "--dry-run")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("captionmill: --num-beams decides nothing in this run")
    given = ("rows.jsonl", "--dry-run", "--temperature", "0", "--parameters")
    assert "nothing: seed in 1 row." in captionmill(tmp_path, "run", *given, "none").stdout
    unknown = captionmill(tmp_path, "run", *given, "sead")
    assert (unknown.returncode, '"sead" is no parameter' in unknown.stderr) == (2, True)


MARK = "Q" * 9000
LONG_ROWS: list[Any] = [
    {"image": MARK},
    {"image": {MARK: MARK}},
    {"image": "data:" + MARK},
    {"image": f"data:{MARK};base64,AAAA"},
    {"image": f"x://{MARK}\0"},
    {"image": f"file://{MARK}/a.png"},
    {"image": 1, MARK: 2},
    {"image": [MARK, MARK]},
    {MARK: "a.png"},
    {MARK: {MARK: "a.png"}, "question": "?"},
    {MARK: 1},
    {**PICTURE, "id": [MARK]},
    {**PICTURE, "id": MARK, "messages": []},
    {**PICTURE, "id": MARK, "parameters": {"num_beams": 2, MARK: 1}},
    {**PICTURE, "id": MARK, "parameters": {"num_beams": 2, "do_sample": True}},
    {**PICTURE, "choices": [MARK, MARK]},
    {**PICTURE, "choices": "[" + MARK},
    {"image": "a.png", "questions": [{MARK: 1}]},
    {"image": "a.png", "messages": [{"role": MARK, "content": "?"}]},
    {"image": "a.png", "messages": [{"role": "user", "content": "?", MARK: 1}]},
    {"image": "a.png", "messages": [{"role": "user", "content": [{"type": MARK}]}]},
    {"image": "a.png", "messages": [{"role": "user", "content": [{"type": "text", "text": "?", MARK: 1}]}]},
    {"image": "a.png", "conversations": [{"from": MARK, "value": "?"}]},
    {"image": "a.png", "stop": MARK, "seed": MARK, "detail": MARK},
    f'{{"image": "a.png", "x": {"9" * 5000}}}',
    f'{{"image": "a.png", {MARK}',
    f'{{"custom_id": "{MARK}", "method": "{MARK}", "url": "{MARK}", "body": {{}}}}',
    json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
                "body": {"messages": [{"role": "user", "content": "?"}], MARK: 1}}),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(LONG_ROWS)))
def test_no_message_quotes_more_than_200_characters(tmp_path: Path, number: int) -> None:
    source = written(tmp_path, LONG_ROWS[number])
    for options in ({}, {"parameters": ("seed", "stop", "detail")}, {"text_only": True}):
        told: list[str] = []
        try:
            rows, found = planned(source, **options)
            told += [row.refusal.message for row in rows if row.refusal is not None] + found.notes.told()
        except SourceError as error:
            told.append(str(error))
        for sentence in told:
            assert not re.search("[Q9]{201}", sentence), sentence[:400]
            assert len(sentence) < 1500, sentence[:400]


def test_a_table_quotes_no_more_either(tmp_path: Path) -> None:
    for header in ([f"{MARK}{number}" for number in range(50)], [f"c{number}" for number in range(9000)]):
        (tmp_path / "rows.csv").write_text(",".join(header) + "\n" + ",".join(["x"] * len(header)))
        with pytest.raises(SourceError, match="no column names an image") as refused:
            planned(tmp_path / "rows.csv")
        assert len(str(refused.value)) < 1000


def odd_values(random: Random) -> Iterator[str]:
    """JSON, as far as others take it for such, with what no JSON can say."""
    leaves = ("1e999", "-1E+400", "NaN", "Infinity", "-Infinity", "1e-999", "12345678901234567890123", "-0.0",
              '"\\ud800"', '"\\udce9 é \\u0000"', '"NaN"', "null", "true", '"=1+1"', "7.0")  # fmt: skip
    for _ in range(60):
        told = random.choice(leaves)
        for _ in range(random.randrange(3)):
            told = random.choice((f"[{told}, {random.choice(leaves)}]", f'{{"k": {told}}}', told))
        yield told


def strict(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def test_outputs_are_json_whatever_came_in(tmp_path: Path) -> None:
    """From every form of source, through every sink, with ids and columns of all kinds."""
    values = list(odd_values(Random(20261129)))
    folder = tmp_path / "in"
    folder.mkdir()
    texts = [f'{{"image": "a.png", "image_id": {one}, "x": {one}, "seed": {one}}}' for one in values]
    written(folder, *texts)
    (folder / "list.json").write_text(f"[{','.join(texts)}]")
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "image_id", "x")] + [("a.png", one, one) for one in values])
    numbers = [float("nan"), float("inf"), -float("inf"), 7.0, None]
    table = {"image": ["a.png"] * 5, "image_id": numbers, "x": [[one, 1.5] for one in numbers]}
    pyarrow.parquet.write_table(pyarrow.table(table), folder / "rows.parquet")
    with tarfile.open(folder / "s.tar", "w") as archive:
        for number, one in enumerate(values):
            for suffix, content in ((".jpg", b"1"), (".json", f'{{"x": {one}}}'.encode())):
                member = tarfile.TarInfo(f"{number}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    for source in ("rows.jsonl", "list.json", "rows.csv", "rows.parquet", "s.tar"):
        rows, found = planned(folder / source, ("Q?",))
        assert found.rows == len(rows) in (5, 60)
        out = tmp_path / f"out {source}"
        out.mkdir()
        answered = [
            replace(answered_row(number, "An answer."), id=row.id, name=row.name, columns=row.columns)
            for number, row in enumerate(rows)
        ]
        kinds = [f"hf:{out}/metadata.jsonl" if kind == "hf" else kind for kind in KINDS if kind != "sidecar"]
        for sink in open_sinks(kinds, out, SinkOptions(), read_path, record_in(out)):
            sink.resume(None)
            sink.write(answered)
            sink.finish(partial(iter, answered))
            sink.close()
        told = sorted(path for path in out.iterdir() if path.suffix in (".json", ".jsonl"))
        assert len(told) >= 7
        for path in told:
            lines = path.read_bytes().splitlines() if path.suffix == ".jsonl" else [path.read_bytes()]
            for line in lines:
                json.loads(line, parse_constant=strict)
        for image_id in [one["image_id"] for one in json.loads((out / "coco.json").read_text())]:
            assert not (isinstance(image_id, str) and re.fullmatch(r"\d{1,18}(\.0+)?", image_id)), image_id
            assert not isinstance(image_id, float), image_id
