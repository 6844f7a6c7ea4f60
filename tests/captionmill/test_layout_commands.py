"""The command line takes what a checkpoint does not say, and refuses in one sentence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from contract.job import GenerationParameters
from contract.model_folder import MANIFEST_JSON, FolderManifest
from model_prep.command import app
from model_prep.convert import convert
from model_prep.settings import PRESETS
from tests.model_prep.layouts.edits import template_in
from tests.model_prep.layouts.models import Model, make_twin
from tests.model_prep.layouts.table import LAYOUTS, VICUNA
from tests.model_prep.test_layouts import QUESTION, picture
from tests.support.processes import ROOT
from tests.support.reference import Reference
from tests.support.without_torch import run_without_torch


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_a_checkpoint_in_llavas_own_layout_converts_and_verifies(tmp_path: Path) -> None:
    layout = LAYOUTS["liuhaotian/llava-v1.6-mistral-7b"]
    _, checkpoint = layout.make(tmp_path)
    shutil.move(tmp_path / "tower", tmp_path / "clip")
    template, out = tmp_path / "mistral.jinja", tmp_path / "folder"
    template.write_text(layout.template)
    tower = ("--vision-tower", tmp_path / "clip")
    made = run("convert", checkpoint, "--out", out, "--preset", "exact", "--chat-template", template, *tower)
    assert made.exit_code == 0, made.output
    manifest = FolderManifest.model_validate_json((out / MANIFEST_JSON).read_bytes())
    assert manifest.packing == "anyres"
    recorded = {name: manifest.settings[name] for name in ("chat_template", "vision_tower", "allow_untested")}
    assert recorded == {"chat_template": "mistral.jinja", "vision_tower": "clip", "allow_untested": False}
    assert str(tmp_path) not in "".join(path.read_text() for path in out.glob("*.json"))
    checked = run("verify", out, "--checkpoint", checkpoint, *tower)
    assert checked.exit_code == 0, checked.output
    assert "ok       parity" in checked.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--chat-template vicuna_v1 gives the one"),
        (("--chat-template", "vicuna"), "conversations are vicuna_v1"),
        (("--chat-template", "vicuna_v1", "--vision-tower", "."), "--vision-tower decides nothing"),
    ],
    ids=["none", "no such", "no other tower"],
)
def test_a_refusal_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    checkpoint = make_twin(tmp_path / "checkpoint", Model(), VICUNA)
    template_in("nowhere")(checkpoint)
    refused = run("convert", checkpoint, "--out", tmp_path / "out", *options)
    assert refused.exit_code == 2, refused.output
    assert words in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_an_untested_language_model_converts_when_asked(tmp_path: Path) -> None:
    """OLMo's norms have no weights: another decoder than any that is named."""
    checkpoint = make_twin(tmp_path / "checkpoint", Model(language="olmo"), VICUNA)
    refused = run("convert", checkpoint, "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert "--allow-untested" in refused.stderr
    made = run("convert", checkpoint, "--out", tmp_path / "out", "--preset", "exact", "--allow-untested")
    assert made.exit_code == 0, made.output
    settings = json.loads((tmp_path / "out" / MANIFEST_JSON).read_text())["settings"]
    assert settings["allow_untested"] is True


@pytest.mark.parametrize(
    "name",
    [
        "mistral-community/pixtral-12b",
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        "Qwen/Qwen2.5-VL-3B-Instruct",
    ],
)
def test_a_worker_needs_no_torch_for_images_in_rows_or_tiles(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    _, checkpoint = layout.make(tmp_path)
    convert(str(checkpoint), tmp_path / "folder", PRESETS["exact"])
    ran = run_without_torch(tmp_path / "folder")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    "name",
    ["ibm-granite/granite-vision-3.2-2b", "mistral-community/pixtral-12b", "liuhaotian/llava-v1.5-7b"],
)
def test_a_worker_process_answers_as_transformers_does(name: str, tmp_path: Path) -> None:
    """The command as a user gives it, with a worker and a server of its own."""
    layout = LAYOUTS[name]
    twin, checkpoint = layout.make(tmp_path)
    convert(str(checkpoint), tmp_path / "folder", PRESETS["exact"], reading=layout.reading)
    image = picture((40, 170))
    (tmp_path / "photos").mkdir()
    image.save(tmp_path / "photos" / "wide.png")
    options = ("--model", tmp_path / "folder", "--question", QUESTION, "--out", tmp_path / "out")
    ran = subprocess.run(
        [sys.executable, "-m", "captionmill", "run", tmp_path / "photos", *options, "--max-new-tokens", "10"],
        cwd=ROOT,
        env=os.environ | {"CAPTIONMILL_PRECISION": "exact"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (row,) = map(json.loads, (tmp_path / "out" / "answers.jsonl").read_text().splitlines())
    reference = Reference(twin, layout.form)
    ends = (reference.model.generation_config.eos_token_id,)
    (expected,) = reference.generate(image, QUESTION, ends, GenerationParameters(max_new_tokens=10))
    text = reference.processor.tokenizer.decode(expected.token_ids, skip_special_tokens=True)
    assert [answer["text"] for answer in row["answers"]] == [text.strip()]
