"""captionmill.toml: what is written is read as the same, options win, and every mistake has its line."""

import json
import os
import random
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.core import TyperOption
from typer.exceptions import TyperException

from captionmill import config_file
from captionmill.cli import app
from captionmill.options import GenerationOptions, LocalOptions, QuestionOptions, SinkChoices, SourceChoices
from captionmill.runs import make_submission
from contract.job import GenerationParameters
from demo.samples import IMAGES, MODEL_FOLDER
from producer.submission import Submission
from tests.support.command import run_command

GROUP: Any = typer.main.get_command(app)
RUN = GROUP.commands["run"]
KEYS = config_file.keys(RUN)

VALUES: dict[str, list[Any]] = {
    "source": [["photos"], ["/data/photos", "photos/**/*.jpg"], ["s3://bucket/photos"], ["hf://owner/name"]],
    "out": ["answers", "/runs/answers"],
    "model": ["model", "/models/llava", "owner/name"],
    "redis": ["redis://127.0.0.1:6379/0"],
    "window": [3],
    "json": [True],
    "workers": [2],
    "device": [["GPU.0", "GPU.1"], ["CPU"]],
    "question": [['What "is" it?'], ["One?", "Two\nlines?", "Is this true: {alt}?"]],
    "questions": ["asked.jsonl"],
    "choice": [["yes", "no"]],
    "detail": ["low", "high", 3],
    "recursive": [True, False],
    "sniff": [True, False],
    "shard_ids": [True, False],
    "delimiter": [";", "tab"],
    "quoting": ["none"],
    "encoding": ["cp1252"],
    "bad_rows": ["skip"],
    "format": ["csv"],
    "image_column": ["picture"],
    "question_column": ["ask"],
    "id_column": ["key"],
    "image_root": ["roots", "https://example.org/images"],
    "split": ["train"],
    "parameters": ["none", "all", "seed,stop"],
    "text_only": [True, False],
    "own_questions": [True, False],
    "max_new_tokens": [64],
    "min_new_tokens": [2],
    "on_flag": [["repetition=repetition_penalty=1.1"]],
    "stop": [["."], ["END", "\t", "\\"]],
    "repetition_penalty": [1.25],
    "no_repeat_ngram_size": [3],
    "visual_tokens": [20],
    "num_return_sequences": [2],
    "length_penalty": [0.5, -1.0],
    "num_beams": [4],
    "early_stopping": ["true", "never"],
    "do_sample": [True, False],
    "temperature": [0.7],
    "top_k": [9],
    "top_p": [0.9],
    "min_p": [0.1],
    "seed": [11],
    "sink": [["csv"], ["jsonl", "csv:tables/a.csv"], ["sidecar:/data/captions"]],
    "sidecars": ["overwrite"],
    "skip_answered": [["answers.jsonl"], ["/runs/a.csv", "b.jsonl"]],
    "sidecar_name": ["full"],
    "final_newline": [True, False],
    "overwrite": [True],
    "keep_going": [True],
    "caption_question": ["q1"],
    "caption_extension": [".caption"],
    "prefix": ["sks "],
    "suffix": [" ünïcode 'quoted'"],
    "separator": ["\n", ", "],
    "long_table": [True],
    "raw_cells": [True],
    "text_column": ["caption"],
    "vqa_columns": [True],
    "samples_per_shard": [7],
    "image_prefix": ["/data/?d="],
    "ship": [True],
    "ship_mib": [9],
}
"""Key → values to try."""
BEAMS = ("num_beams", "early_stopping", "num_return_sequences")
SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "seed", "num_return_sequences")


def parsed(*arguments: str) -> Any:
    """The context of `captionmill run` with these arguments."""
    parent = GROUP.make_context("captionmill", [], resilient_parsing=True)
    return RUN.make_context("run", list(arguments), parent=parent)


def typed(name: str, value: Any) -> list[str]:
    """An option as a person types it."""
    param = KEYS[name]
    if not isinstance(param, TyperOption):
        return list(value)
    if isinstance(value, bool):
        return [(param.opts if value else param.secondary_opts)[0]]
    values = value if isinstance(value, list) else [value]
    return [f"{param.opts[0]}={one}" for one in values]


def some_options(draw: random.Random) -> list[str]:
    """A source and options that go together, few or many."""
    share = draw.choice((0.1, 0.5, 0.95))
    names = {name for name in VALUES if draw.random() < share} | {"source"}
    fixed: dict[str, Any] = {}
    search = draw.choice((BEAMS, SAMPLING, ()))
    names -= {*BEAMS, *SAMPLING} - {*search}
    if names & {*BEAMS, *SAMPLING}:
        fixed = {"num_beams": 4} if search == BEAMS else {"do_sample": True}
    if "choice" in names:
        fixed["question"] = draw.choice(VALUES["question"])
    return [
        word
        for name in VALUES
        if name in names | fixed.keys()
        for word in typed(name, fixed[name] if name in fixed else draw.choice(VALUES[name]))
    ]


def submission(context: Any) -> Submission | str:
    """What a run would keep of what it was told, or the sentence that refuses it."""
    kinds = {
        "questions": QuestionOptions,
        "options": SourceChoices,
        "generation": GenerationOptions,
        "sinks": SinkChoices,
    }
    params = function_params(context)
    groups: dict[str, Any] = {
        name: kind(**{field.name: params[field.name] for field in fields(kind)})
        for name, kind in kinds.items()
    }
    try:
        made = make_submission(params["source"], **groups, model=params["model"], local=True)
        return made.at_home()
    except ValueError as error:
        return str(error)


def function_params(context: Any) -> dict[str, Any]:
    """As Typer hands them to the function: empty lists are None."""
    return {name: value if value != () else None for name, value in context.params.items()}


def told(context: Any) -> dict[str, Any]:
    """What else the command was told: everything that is no part of a submission, paths absolute."""
    names = (
        "out",
        "redis_url",
        "window",
        "as_json",
        "keep_going",
        "overwrite",
        *(field.name for field in fields(LocalOptions)),
    )
    found = {name: context.params[name] for name in names}
    return found | {"out": found["out"] and found["out"].absolute()}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with what the values name."""
    folder = tmp_path / "here"
    (folder / "model").mkdir(parents=True)
    asked = {"id": "z", "text": "Is it day?", "choices": ["yes", "no"], "max_new_tokens": 5}
    (folder / "asked.jsonl").write_text(json.dumps(asked))
    monkeypatch.chdir(folder)
    return folder


def test_every_option_that_can_stand_in_a_file_is_tried() -> None:
    assert KEYS.keys() == VALUES.keys()
    assert {field.name for field in fields(GenerationOptions)} == GenerationParameters.model_fields.keys()


def test_whatever_a_file_turns_on_an_option_turns_off() -> None:
    flags = [param for param in KEYS.values() if getattr(param, "is_flag", False)]
    assert len(flags) >= 6
    assert [param.opts for param in flags if not param.secondary_opts] == []


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
@pytest.mark.parametrize("seed", range(60))
def test_what_is_written_is_read_as_the_same_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, seed: int, elsewhere: bool
) -> None:
    before = parsed(*some_options(random.Random(seed)))
    path = here / "files" / "run.toml" if elsewhere else Path("captionmill.toml")
    path.parent.mkdir(exist_ok=True)
    config_file.write_config(path, before)
    wanted, said = submission(before), told(before)
    if elsewhere:
        (here / "other").mkdir()
        monkeypatch.chdir(here / "other")
        path = Path("..") / "files" / "run.toml"
    after = parsed("--config", str(path))
    assert isinstance(wanted, Submission), wanted
    assert submission(after) == wanted
    assert told(after) == said
    assert {param.name for param in config_file.given(after)} == {
        *("config" if param.name == "_config" else param.name for param in config_file.given(before)),
        "_config",
    }


@pytest.mark.parametrize("key", VALUES)
def test_an_option_wins_over_the_file(key: str) -> None:
    """Every key: a value in the file, another one on the command line."""
    first = VALUES[key][0]
    others: dict[type, Any] = {bool: not first, int: 5, float: 0.25, str: "other", list: ["other"]}
    other = {
        "format": "json",
        "quoting": "quotes",
        "bad_rows": "refuse",
        "sidecars": "append",
        "sidecar_name": "stem",
        "early_stopping": "false",
        "detail": 5,
        "choice": ["other", "neither"],
    }.get(key, others[type(first)])
    alone = [] if key == "source" else ["photos"]
    config_file.write_config(Path("a.toml"), parsed(*alone, *typed(key, first)))
    context = parsed("--config", "a.toml", *typed(key, other))
    expected = parsed(*alone, *typed(key, other))
    name = KEYS[key].name
    assert context.params[name] == expected.params[name]
    assert context.params[name] != parsed("--config", "a.toml").params[name]


TABLES = """
source = "photos"
max_new_tokens = 9
question = "Short?"
choice = ["yes", "no"]

[[questions]]
id = "kind"
text = "What kind?"
choices = ["a", "b"]

[[questions]]
text = "And {answer:kind}?"
num_beams = 2
"""


def test_questions_may_be_tables() -> None:
    Path("a.toml").write_text(TABLES)
    made = submission(parsed("--config", "a.toml"))
    assert isinstance(made, Submission)
    assert [(prompt.id, prompt.text, prompt.choices) for prompt in made.prompts] == [
        ("q1", "Short?", ("yes", "no")),
        ("kind", "What kind?", ("a", "b")),
        ("q3", "And {answer:kind}?", None),
    ]
    assert made.prompts[2].parameters == {"num_beams": 2}
    config_file.write_config(Path("b.toml"), parsed("--config", "a.toml"))
    assert submission(parsed("--config", "b.toml")) == made


@pytest.mark.parametrize("given", [("--question", "Other?"), ("--questions", "asked.jsonl")])
def test_questions_on_the_command_line_replace_all_that_the_file_asks(given: tuple[str, str]) -> None:
    Path("a.toml").write_text(TABLES)
    made = submission(parsed("--config", "a.toml", *given))
    alone = submission(parsed("photos", "--max-new-tokens", "9", *given))
    assert made == alone
    kept = submission(parsed("--config", "a.toml", "--choice", "1", "--choice", "2"))
    assert isinstance(kept, Submission)
    assert [prompt.choices for prompt in kept.prompts] == [("1", "2"), ("a", "b"), None]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# a\nnum_baems = 4", "a.toml, line 2: there is no key num_baems; the nearest one is num_beams."),
        ("[sink]\nkind = 'csv'", "a.toml, line 1: sink must be a text in quotes, or a list of such, not"),
        ("num-beams = 4", "a.toml, line 1: there is no key num-beams; the nearest one is num_beams."),
        ("\nmax_new_tokens = '9'", 'line 2: max_new_tokens must be a whole number, not "9".'),
        ("max_new_tokens = true", "line 1: max_new_tokens must be a whole number, not true."),
        ("max_new_tokens = 9.5", "line 1: max_new_tokens must be a whole number, not 9.5."),
        ("temperature = 'hot'", "temperature must be a number"),
        ("recursive = 1", "recursive must be true or false, not 1."),
        ("source = 3", "source must be a text in quotes"),
        ("prefix = 2026-01-01", "prefix must be a text in quotes, not 2026-01-01."),
        ("stop = [\n 'a',\n 3,\n]", "line 1: stop must be a text in quotes, or a list of such, not 3."),
        ("detail = 'lo'", "line 1: detail: 'lo' is not low, high, auto or a number of tiles."),
        ("num_beams = 65", "line 1: num_beams: Input should be less than or equal to 64."),
        ("sidecars = 'keep'", "line 1: sidecars: "),
        ("a = 1\na = 2", "a.toml is not TOML: "),
        ("resume = true", "line 1: resume is for the command line alone."),
        ("dry_run = true", "line 1: dry_run is for the command line alone."),
        ("questions = [3]", "line 1: questions must be a file's name, or tables [[questions]]."),
        (
            "[[questions]]\ntext = 'A?'\n\n[[questions]]\ntxt = 'B?'",
            "line 5: there is no key txt; the nearest",
        ),
        ("[[questions]]\ntext = 'A?'\nnum_beams = '4'", "line 3: num_beams must be a whole number, not"),
        ("[[questions]]\ntext = 'A?'\nnum_beams = 0", "line 1: question 1: num_beams: Input should be"),
        ("\n[[questions]]\nid = 'a'", 'line 2: question 1: there is no "text".'),
        ("[[questions]]\ntext = 'A?'\n[[questions]]\ntext = 3", "line 3: question 2: "),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_line(text: str, sentence: str) -> None:
    Path("a.toml").write_text(text)
    with pytest.raises(TyperException) as caught:
        parsed("photos", "--config", "a.toml")
    assert sentence in caught.value.format_message()
    assert caught.value.exit_code == 2


def test_what_cannot_be_written_is_refused() -> None:
    config_file.write_config(Path("a.toml"), parsed("photos"))
    kept = Path("a.toml").read_bytes()
    for path, context, sentence in (
        (Path("a.toml"), parsed("photos"), "a.toml is there already"),
        (Path("a.json"), parsed("photos"), ".toml"),
        (Path("b.toml"), parsed(os.fsdecode(b"\xe9")), "not UTF-8"),
        (Path("b.toml"), parsed("photos", "--redis", "redis://:secret@h/0"), "holds a password"),
    ):
        with pytest.raises(config_file.ConfigError, match=sentence):
            config_file.write_config(path, context)
    assert Path("a.toml").read_bytes() == kept
    assert [path.name for path in Path().glob("*.*")] == ["a.toml", "asked.jsonl"]


def captionmill(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CAPTIONMILL_")}
    return run_command(*arguments, cwd=Path.cwd(), env=environment)


def test_a_run_from_a_file(here: Path) -> None:
    """Written without a name, kept out of sight unless it is named, then run; and estimated from."""
    (here / "photos").mkdir()
    for name in ("01-square.png", "02-wide.png"):
        Image.open(IMAGES / name).save(here / "photos" / name)
    given = ("photos", "--model", str(MODEL_FOLDER), "--question", "What?", "--max-new-tokens", "3")
    written = captionmill("run", *given, "--write-config", "--out", "answers")
    assert written.returncode == 0, written.stderr
    assert "captionmill run --config captionmill.toml" in written.stdout
    assert sorted(path.name for path in here.iterdir()) == [
        "asked.jsonl",
        "captionmill.toml",
        "model",
        "photos",
    ]
    assert tomllib.loads(Path("captionmill.toml").read_text())["max_new_tokens"] == 3
    unread = captionmill("run")
    assert unread.returncode == 2
    assert "captionmill.toml is here" in unread.stderr
    ran = captionmill("run", "--config", "captionmill.toml", "--max-new-tokens", "2")
    assert ran.returncode == 0, ran.stderr
    (first, *_) = [json.loads(line) for line in Path("answers/answers.jsonl").read_text().splitlines()]
    assert first["answers"][0]["completion_tokens"] == 2
    dry = captionmill("run", "--config", "captionmill.toml", "--dry-run", "--json")
    assert '"max_new_tokens": 3' in dry.stdout


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--question", "Other?"), "where --question would have no effect"),
        (("photos", "--num-beams", "4"), "where source, --num-beams would have no effect"),
        (("--config", "a.toml"), "where --config would have no effect"),
    ],
)
def test_an_option_that_resume_would_not_use_is_refused(given: tuple[str, ...], sentence: str) -> None:
    Path("a.toml").write_text("")
    ran = captionmill("run", "--resume", "--out", "answers", *given)
    assert ran.returncode == 2
    assert sentence in ran.stderr
    assert "give --out alone" in ran.stderr


def test_the_other_commands_for_a_source_take_the_file_too() -> None:
    """What they have no option for is checked and left out."""
    Path("a.toml").write_text('source = "nowhere"\nsink = "csv"\nsample = 3')
    for command in ("submit", "estimate"):
        ran = captionmill(command, "--config", "a.toml")
        assert "line 3: there is no key sample" in ran.stderr
    Path("a.toml").write_text('source = "nowhere"\nsink = "csv"\nout = "answers"')
    ran = captionmill("estimate", "--config", "a.toml", "--redis", "redis://127.0.0.1:1/0")
    assert "nowhere" in ran.stderr, ran.stderr
