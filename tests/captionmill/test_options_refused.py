"""Options and names that cannot be meant: one sentence each, before anything is begun; starts no process."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from captionmill.cli import main
from tests.support.processes import ROOT

DEMO = str(ROOT / "demo" / "model" / "openvino")
ASK = ("ask", "{photos}/a.png", "What?", "--model", "demo")
RUN = ("run", "{photos}", "--question", "What?", "--model", "demo")
OUT = ("--out", "{out}")
REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "a folder to ask about": (("ask", "{photos}", "What?"), "is a folder, and one image is asked about"),
    "the command for a folder": (("ask", "{photos}", "What?"), "captionmill run {photos} --question"),
    "no file to ask about": (("ask", "{photos}/b.png", "What?"), "There is no file"),
    "one choice": ((*RUN, *OUT, "--choice", "yes"), "'--choice': there is one answer"),
    "one choice to ask": ((*ASK, "--choice", "yes"), "'--choice': there is one answer"),
    "no URL": ((*RUN, *OUT, "--redis", "nonsense"), "--redis or CAPTIONMILL_REDIS_URL: it is not redis://"),
    "no URL to ask": ((*ASK, "--redis", "nonsense"), "--redis or CAPTIONMILL_REDIS_URL: it is not redis://"),
    "a parameter": ((*RUN, *OUT, "--length-penalty", "nan"), "captionmill: --length-penalty: "),
    "no folder": ((*RUN, "--out", ""), "'--out': it is empty"),
    "no folder to send": (("submit", "{photos}", "--out", ""), "'--out': it is empty"),
    "no folder to convert": (("convert", "{photos}", "--out", ""), "'--out': it is empty"),
    "no folder to look at": (("status", ""), "it is empty"),
    "the images' folder": ((*RUN, "--out", "{photos}"), "is the folder of the images themselves"),
    "the images' folder, otherwise": ((*RUN, "--out", "{photos}/../photos/"), "--sink sidecar"),
    "the images' folder, dry": ((*RUN, "--dry-run", "--out", "{photos}"), "folder of the images themselves"),
    "another question's caption": (
        (*RUN, *OUT, "--sink", "sidecar", "--caption-question", "q2"),
        'no image is asked a question with the id "q2"; there are "q1"',
    ),
    "a row's question's caption": (
        ("run", "{own}", *OUT, "--model", "demo", "--caption-question", "q1"),
        'no image is asked a question with the id "q1"; there are "colour"',
    ),
    "a model of that name": (("models", "show", "demonstration"), "There is no kept model demonstration"),
    "the model that ships": (("models", "remove", "demo", "--yes"), "demo is part of the program"),
    "no model folder": (
        ("models", "verify", "{photos}"),
        ": {photos} is no published model folder",
    ),
    "no hub id": (
        ("convert", "a/b/c", "--out", "{out}"),
        ": a/b/c is not a checkpoint: no folder here, and no",
    ),
    "no checkpoint": (("convert", "{photos}", "--out", "{out}"), ": {photos} is not a checkpoint"),
}


@pytest.mark.parametrize(("words", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_one_sentence_says_what_to_do(
    words: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    photos, out, own = tmp_path / "photos", tmp_path / "out", tmp_path / "own.jsonl"
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(photos / "a.png")
    own.write_text('{"image": "photos/a.png", "questions": [{"id": "colour", "question": "Which?"}]}\n')

    def filled(text: str) -> str:
        return text.format(photos=photos, out=out, own=own)

    monkeypatch.setattr(sys, "argv", ["captionmill", *map(filled, words)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CAPTIONMILL_REDIS_URL", raising=False)
    with pytest.raises(SystemExit) as ended:
        main()
    told = capfd.readouterr()
    assert ended.value.code == 2
    assert filled(sentence) in told.err
    *stages, refusal = told.err.splitlines()
    assert refusal.startswith("captionmill: ")
    assert all(line.endswith(" …") for line in stages)
    assert not out.exists()
    assert sorted(path.name for path in photos.iterdir()) == ["a.png"]


def test_the_model_that_ships_is_shown_and_checked(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = {}
    for word in ("show", "verify"):
        monkeypatch.setattr(sys, "argv", ["captionmill", "models", word, "demo"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, word
        said[word] = capfd.readouterr().out
    assert "captionmill-demo-fp16" in said["show"]
    assert DEMO in said["show"]
    assert "ready" in said["show"]
    assert "ok       openvino_language_model.xml" in said["verify"]
