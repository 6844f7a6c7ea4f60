"""Model folders and checkpoints that strangers made: refused with a sentence, and nothing is run."""

import json
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.job import Question
from contract.model_folder import MANIFEST_JSON
from model_prep.checkpoint import load_model, open_checkpoint
from model_prep.refusal import ConversionError
from tests.support.command import run_command
from tests.support.processes import ROOT
from worker.llava.folder import ModelFolderError, read_folder
from worker.llava.prompt import PromptWriter

FOLDER = ROOT / "demo" / "model" / "openvino"
CHECKPOINT = ROOT / "demo" / "model" / "checkpoint"
TEMPLATES = {
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}": "takes more than",
    "{% set n = namespace(a='xxxxx') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}": (
        "takes too much memory"
    ),
    "{{ 'x' * 9999999999 }}": "takes too much memory",
    "{{ 'x' * 2000000 }}": "makes 2000000 characters of a short question",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "reaches for what no template needs",
    "{{ messages.__init__.__globals__ }}": "reaches for what no template needs",
    "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}": "takes too much memory",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo's, without a manifest that would tell of every change."""
    made = tmp_path / "folder"
    shutil.copytree(FOLDER, made)
    (made / MANIFEST_JSON).unlink()
    return made


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refusal(*words: str | Path) -> str:
    """What the command says in one sentence, before anything is loaded."""
    ran = run_command(*words)
    assert (ran.returncode, "Traceback" in ran.stderr) == (2, False), ran.stderr
    return ran.stderr


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_that_does_more_than_write_is_refused(folder: Path, template: str, redis_url: str) -> None:
    set_template(folder, template)
    said = refusal("worker", "--model", folder, "--redis", redis_url)
    assert f"The chat template of {folder} {TEMPLATES[template]}" in said


def set_template(folder: Path, template: str) -> None:
    for name in ("chat_template.jinja", "chat_template.json"):
        (folder / name).unlink(missing_ok=True)
    change(folder / "tokenizer_config.json", chat_template=template)


def test_the_demos_own_template_is_not() -> None:
    question = Question(id="q", messages="What is this?")
    writer = PromptWriter.load(FOLDER, json.loads((FOLDER / "config.json").read_text())["image_token_index"])
    assert len(writer.token_ids(question, with_image=False)) > 0


def test_code_of_a_folder_is_refused(folder: Path, checkpoint: Path) -> None:
    for place in (folder, checkpoint):
        change(place / "config.json", auto_map={"AutoConfig": "evil.Config"})
        (place / "evil.py").write_text("raise SystemExit('run')")
    with pytest.raises(ModelFolderError, match="brings code of its own"):
        read_folder(folder)
    with pytest.raises(ConversionError, match="brings code of its own"):
        open_checkpoint(str(checkpoint))


def test_the_commands_say_so(folder: Path, checkpoint: Path, tmp_path: Path, redis_url: str) -> None:
    work = ("worker", "--model", folder, "--redis", redis_url)
    convert = ("convert", checkpoint, "--out", tmp_path / "out")
    for place, words in ((folder, work), (checkpoint, convert)):
        change(place / "config.json", auto_map={"AutoConfig": "evil.Config"})
        assert f"{place} brings code of its own" in refusal(*words)


@pytest.mark.parametrize("config", ["[]", "7", "[" * 100_000, "{", '"x"', "null"])
def test_a_config_that_is_none(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelFolderError, match=r"config\.json is (not a JSON object|not JSON)"):
        read_folder(folder)


@pytest.mark.parametrize("length", [2**30, 2**63, 2**64 - 1, 0, 101 * 2**20])
def test_a_header_of_a_gigabyte_is_not_read(checkpoint: Path, length: int) -> None:
    (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}" + bytes(100))
    with pytest.raises(ConversionError, match="cannot be read"):
        load_model(open_checkpoint(str(checkpoint)))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("open('/tmp/captionmill-pickle-ran', 'w')",)


def test_the_command_reads_no_such_weights(checkpoint: Path, tmp_path: Path) -> None:
    ran = Path("/tmp/captionmill-pickle-ran")
    ran.unlink(missing_ok=True)
    convert = ("convert", checkpoint, "--out", tmp_path / "out")
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", 2**30) + b"{}" + bytes(100))
    assert f"The weights of {checkpoint} cannot be read" in refusal(*convert)
    weights.unlink()
    torch.save({"weight": Evil()}, checkpoint / "pytorch_model.bin")
    assert f"The weights of {checkpoint} cannot be read" in refusal(*convert)
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    assert f"The weights of {checkpoint} cannot be read" in refusal(*convert)
    assert not ran.exists()


def test_a_pickle_is_not_read(checkpoint: Path) -> None:
    ran = Path("/tmp/captionmill-pickle-ran")
    ran.unlink(missing_ok=True)
    (checkpoint / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, checkpoint / "pytorch_model.bin")
    (checkpoint / "training_args.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ConversionError):  # tensors alone may be read, and these are not enough
        load_model(open_checkpoint(str(checkpoint)))
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ConversionError, match="cannot be read"):
        load_model(open_checkpoint(str(checkpoint)))
    assert not ran.exists()
