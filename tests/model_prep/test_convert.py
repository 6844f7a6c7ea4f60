"""Holds model_prep to what a model folder must be and to what it must refuse; knows no worker."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from transformers import AutoTokenizer, CLIPVisionConfig, LlavaNextForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from typer.testing import CliRunner, Result

from contract.model_folder import (
    ATTENTION_MASK,
    BEAM_IDX,
    INPUT_IDS,
    INPUTS_EMBEDS,
    LANGUAGE_XML,
    LOGITS,
    MANIFEST_JSON,
    PIXEL_VALUES,
    POSITION_IDS,
    TEXT_XML,
    VISION_XML,
    FolderManifest,
)
from model_prep.calibration import Sample
from model_prep.checkpoint import ParameterCounts, open_checkpoint
from model_prep.command import app
from model_prep.convert import convert as model_prep_convert
from model_prep.export import export_vision
from model_prep.inference import Language, PromptAndAnswer, compile_part
from model_prep.layer_blocks import Graph, UncutError
from model_prep.pictures import drawn_samples
from model_prep.processor import load_processing
from model_prep.progress import STAGE_COUNT
from model_prep.publish import staged
from model_prep.reference import Reference
from model_prep.resources import layers_at_once
from model_prep.settings import PRESETS, LanguageSettings, PrepSettings
from model_prep.verification import Comparison
from model_prep.verified import NEW_TOKENS, VERIFICATION_JSON, VERIFICATION_MD, Verification
from model_prep.work import work_path
from tests.support.checkpoints import CHAT_TEMPLATE, make_tiny_checkpoint
from tests.support.processes import ROOT

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "PERF_COUNT": "YES"}
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_checkpoint(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("published") / "folder"
    result = convert(checkpoint, out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> LlavaNextForConditionalGeneration:
    return LlavaNextForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.fixture
def altered(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may spoil."""
    copy = tmp_path / "altered"
    copy.mkdir()
    for path in checkpoint.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def convert(source: Path | str, out: Path, *options: str, preset: str = "exact") -> Result:
    arguments = ["convert", str(source), "--out", str(out), "--preset", preset, *options]
    return CliRunner().invoke(app, arguments)


def set_config(checkpoint: Path, **values: Any) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    for key, value in values.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    (checkpoint / "config.json").write_text(json.dumps(config))


def assert_refused(result: Result, out: Path, *words: str) -> None:
    """Exit code 2, one sentence on stderr with `words` in it, and no trace beside `out`."""
    assert result.exit_code == 2, result.output
    sentences = [line for line in result.stderr.splitlines() if all(word in line for word in words)]
    assert len(sentences) == 1, result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert not out.exists()
    assert leftovers(out) == []


def leftovers(out: Path) -> list[Path]:
    return [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}.")]


def rows(count: int, positions: int, past: int = 0) -> dict[str, Any]:
    """Masks and positions of `count` rows, without padding."""
    return {
        ATTENTION_MASK: np.ones((count, past + positions), dtype=np.int64),
        POSITION_IDS: np.tile(np.arange(past, past + positions), (count, 1)),
        BEAM_IDX: np.arange(count, dtype=np.int32),
    }


def torch_logits(reference: LlavaNextForConditionalGeneration, embeds: Any) -> Any:
    with torch.no_grad():
        return reference(inputs_embeds=torch.from_numpy(embeds)).logits[:, -1].numpy()


def test_ports_are_those_that_other_readers_look_for(folder: Path) -> None:
    core = openvino.Core()
    ports = {}
    for name in (VISION_XML, TEXT_XML, LANGUAGE_XML):
        model = core.read_model(folder / name)
        ports[name] = (
            [str(port.get_partial_shape()) for port in model.inputs],
            {port.get_any_name() for port in model.inputs},
        )
    assert ports[VISION_XML] == (["[?,3,56,56]"], {PIXEL_VALUES})
    assert ports[TEXT_XML] == (["[?,?]"], {INPUT_IDS})
    assert ports[LANGUAGE_XML][1] == {ATTENTION_MASK, POSITION_IDS, INPUTS_EMBEDS, BEAM_IDX}
    language = core.read_model(folder / LANGUAGE_XML)
    assert [port.get_any_name() for port in language.outputs] == [LOGITS]
    assert language.output(LOGITS).get_partial_shape()[1].get_max_length() == 1


def test_language_graph_uses_the_fused_attention(folder: Path) -> None:
    request = openvino.Core().compile_model(folder / LANGUAGE_XML, "CPU", EXACT).create_infer_request()
    request.infer(rows(1, 6) | {INPUTS_EMBEDS: np.zeros((1, 6, 64), dtype=np.float32)})
    kinds = Counter(node.node_type for node in request.profiling_info)
    assert kinds["ScaledDotProductAttentionWithKVCache"] == 3
    assert kinds["ScaledDotProductAttention"] == kinds["Softmax"] == kinds["MatMul"] == 0


def test_beam_idx_forks_reorders_and_drops_rows(
    folder: Path, reference: LlavaNextForConditionalGeneration
) -> None:
    request = openvino.Core().compile_model(folder / LANGUAGE_XML, "CPU", EXACT).create_infer_request()
    random = np.random.default_rng(0)
    embeds = random.normal(size=(2, 5, 64)).astype(np.float32)
    for beam_idx in ([0, 1], [1, 0, 1, 0], [2, 2, 3, 0], [3]):
        first = embeds.shape[1] == 5 and len(beam_idx) == 2
        if first:
            inputs = rows(2, 5) | {INPUTS_EMBEDS: embeds}
        else:
            step = random.normal(size=(len(beam_idx), 1, 64)).astype(np.float32)
            inputs = rows(len(beam_idx), 1, past=embeds.shape[1])
            inputs |= {INPUTS_EMBEDS: step, BEAM_IDX: np.array(beam_idx, dtype=np.int32)}
            embeds = np.concatenate([embeds[beam_idx], step], axis=1)
        logits = request.infer(inputs)[LOGITS][:, -1]
        assert np.abs(logits - torch_logits(reference, embeds)).max() <= TOLERANCE


def test_padded_positions_are_not_seen(folder: Path, reference: LlavaNextForConditionalGeneration) -> None:
    request = openvino.Core().compile_model(folder / LANGUAGE_XML, "CPU", EXACT).create_infer_request()
    embeds = np.random.default_rng(1).normal(size=(1, 8, 64)).astype(np.float32)
    inputs = rows(1, 8) | {INPUTS_EMBEDS: embeds}
    inputs[ATTENTION_MASK][0, :3] = 0
    inputs[POSITION_IDS] = np.array([[0, 0, 0, 0, 1, 2, 3, 4]])
    logits = request.infer(inputs)[LOGITS][:, -1]
    assert np.abs(logits - torch_logits(reference, embeds[:, 3:])).max() <= TOLERANCE


def test_config_carries_the_image_newline(folder: Path, reference: LlavaNextForConditionalGeneration) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert np.array_equal(np.float32(config["image_newline"]), reference.model.image_newline.detach().numpy())
    assert config["model_type"] == "llava_next"
    assert config["text_config"]["hidden_size"] == 64


def test_processor_tokenizer_and_template_come_along(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
    for name in ("processor_config.json", "preprocessor_config.json"):
        assert (folder / name).is_file()
    assert LlavaNextImageProcessorPil.from_pretrained(folder).crop_size["height"] == 56


def test_manifest_names_every_file_with_its_hash(folder: Path) -> None:
    manifest = FolderManifest.model_validate_json((folder / MANIFEST_JSON).read_bytes())
    assert set(manifest.files) == {path.name for path in folder.iterdir()} - {MANIFEST_JSON}
    for name, file in manifest.files.items():
        content = (folder / name).read_bytes()
        assert (file.size_bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert manifest.model.startswith("tiny-fp32-")
    assert (manifest.source, manifest.weight_format) == ("tiny", "fp32")
    assert str(folder.parent) not in "".join(path.read_text() for path in folder.glob("*.json"))


def test_int8_is_small_and_close(
    checkpoint: Path, folder: Path, reference: LlavaNextForConditionalGeneration, tmp_path: Path
) -> None:
    out = tmp_path / "int8"
    result = convert(checkpoint, out, "--name", "small.1", "--weight-format", "int8")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("small.1-int8-vision-fp32-")
    for name in (TEXT_XML, LANGUAGE_XML):
        weights = Path(name).with_suffix(".bin")
        assert (out / weights).stat().st_size < 0.4 * (folder / weights).stat().st_size
    request = openvino.Core().compile_model(out / LANGUAGE_XML, "CPU", EXACT).create_infer_request()
    embeds = np.random.default_rng(2).normal(size=(1, 9, 64)).astype(np.float32)
    logits = request.infer(rows(1, 9) | {INPUTS_EMBEDS: embeds})[LOGITS][:, -1]
    expected = torch_logits(reference, embeds)
    assert 0 < np.abs(logits - expected).mean() < 0.05 * expected.std()


def test_float16_checkpoint_is_converted_without_loss(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "half", seed=3, dtype="float16")
    result = convert(source, tmp_path / "out", "--weight-format", "fp16", "--vision-format", "fp16")
    assert result.exit_code == 0, result.output
    model = LlavaNextForConditionalGeneration.from_pretrained(source, dtype=torch.float32).eval()
    embeds = np.random.default_rng(4).normal(size=(1, 9, 64)).astype(np.float32)
    compiled = openvino.Core().compile_model(tmp_path / "out" / LANGUAGE_XML, "CPU", EXACT)
    logits = compiled.create_infer_request().infer(rows(1, 9) | {INPUTS_EMBEDS: embeds})[LOGITS][:, -1]
    assert np.abs(logits - torch_logits(model, embeds)).max() <= TOLERANCE


@pytest.mark.parametrize(
    "variation", [{"vision_feature_layer": -1}, {"vision_feature_layer": [-3, -1]}], ids=["last", "two"]
)
def test_vision_feature_layers_are_followed(variation: dict[str, Any], tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source", **variation)
    model = LlavaNextForConditionalGeneration.from_pretrained(source, dtype=torch.float32).eval()
    pixel_values = np.random.default_rng(5).normal(size=(1, 3, 3, 56, 56)).astype(np.float32)
    with torch.no_grad():
        output = model.get_image_features(torch.from_numpy(pixel_values), torch.tensor([[56, 112]]))
    expected = output.pooler_output[0][: 4 * 4].numpy()
    features = openvino.Core().compile_model(export_vision(model), "CPU", EXACT)([pixel_values[0]])[0]
    assert np.abs(features[0] - expected).max() <= TOLERANCE


def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    out, empty, file = tmp_path / "out", tmp_path / "empty", tmp_path / "file.bin"
    empty.mkdir()
    file.write_bytes(b"x")
    for source in (empty, file, tmp_path / "missing"):
        assert_refused(convert(source, out), out, str(source), "is not a checkpoint")


def test_another_architecture_is_refused_before_weights_are_looked_for(tmp_path: Path) -> None:
    source, out = tmp_path / "other", tmp_path / "out"
    CLIPVisionConfig().save_pretrained(source)
    names = "llava, vipllava, llava_next, llava_next_video, llava_onevision"
    assert_refused(convert(source, out), out, "'clip_vision_model' is not supported", names)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text_config": {"model_type": "gpt2"}}, ("gpt2", "llama, mistral, phi3", "--allow-untested")),
        ({"text_config": {"model_type": "nobody's"}}, ("nobody's", "llama, mistral, phi3")),
        (
            {"vision_config": {"model_type": "dinov2"}},
            ("dinov2", "clip_vision_model, siglip_vision_model"),
        ),
        ({"vision_feature_select_strategy": "full"}, ("'full'", "supported: default.")),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, ("'default'", "supported: full.")),
        (
            {"architectures": ["LlavaMistralForCausalLM"]},
            ("'LlavaMistralForCausalLM'", "LlavaNextForConditionalGeneration"),
        ),
        (
            {"model_type": "llava_onevision", "architectures": None},
            ("'clip_vision_model'", "supported: siglip_vision_model."),
        ),
        (
            {"text_config": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}},
            ("'dynamic'", "prompt's length"),
        ),
        ({"text_config": {"vocab_size": 2**44}}, ("GB of disk", "free")),
        ({"image_token_index": "three"}, ("config", "not valid", "image_token_index")),
    ],
    ids=[
        "language model",
        "unknown language model",
        "vision tower",
        "class token",
        "no class token",
        "classes of another repository",
        "vision tower of another family",
        "rotary embeddings",
        "disk",
        "invalid",
    ],
)
def test_a_config_that_cannot_be_run_is_refused(
    altered: Path, tmp_path: Path, change: dict[str, Any], words: tuple[str, ...]
) -> None:
    set_config(altered, **change)
    (altered / "model.safetensors").unlink()
    assert_refused(convert(altered, tmp_path / "out"), tmp_path / "out", *words)


def test_weights_that_are_broken_or_missing_are_refused(altered: Path, tmp_path: Path) -> None:
    weights, out = altered / "model.safetensors", tmp_path / "out"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert_refused(convert(altered, out), out, "weights", "cannot be read")
    weights.write_bytes(whole.replace(b"image_newline", b"image_newlinX"))
    assert_refused(convert(altered, out), out, "lacks 1 weights", "image_newline")
    weights.unlink()
    assert_refused(convert(altered, out), out, "weights", "cannot be read")


@pytest.mark.parametrize("missing", ["chat_template.jinja", "tokenizer.json", "processor_config.json"])
def test_a_checkpoint_without_its_processor_is_refused(altered: Path, tmp_path: Path, missing: str) -> None:
    (altered / missing).unlink()
    assert_refused(convert(altered, tmp_path / "out"), tmp_path / "out", str(altered))


def test_a_name_that_does_not_fit_a_model_id_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert_refused(convert(checkpoint, out, "--name", "a b"), out, "'a b'", "--name")


def test_a_folder_with_something_in_it_is_replaced_only_when_asked(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("kept")
    refused = convert(checkpoint, out)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert (out / "precious").read_text() == "kept"
    assert convert(checkpoint, out, "--overwrite").exit_code == 0
    assert not (out / "precious").exists()
    assert (out / MANIFEST_JSON).is_file()
    assert leftovers(out) == []


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_an_error_half_way_leaves_the_old_folder_alone(tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")

    def fail() -> None:
        with staged(out) as stage:
            (stage / "half").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["old"]


def hashes(out: Path) -> dict[str, str]:
    """Of all files but those that say how fast a part was."""
    manifest = FolderManifest.model_validate_json((out / MANIFEST_JSON).read_bytes())
    return {n: f.sha256 for n, f in manifest.files.items() if n not in (VERIFICATION_JSON, VERIFICATION_MD)}


class Interruption(BaseException):
    """As Ctrl-C comes: anywhere."""


def stages_of(checkpoint: Path, out: Path, interrupt_at: str | None = None) -> list[str]:
    """Convert, and the stages as they began; interrupted as the one of this name begins."""
    stages: list[str] = []

    def note(stage: str) -> None:
        stages.append(stage)
        if stage == interrupt_at:
            raise Interruption

    with suppress(Interruption):
        model_prep_convert(str(checkpoint), out, PRESETS["balanced"], name="same", on_stage=note)
    return stages


def test_a_conversion_goes_on_where_it_was_interrupted(checkpoint: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    stages = stages_of(checkpoint, whole)
    assert len(set(stages)) == len(stages) <= STAGE_COUNT
    for finishes, begins in pairwise(stages):
        seen = stages_of(checkpoint, out, interrupt_at=begins)
        assert seen == list(dict.fromkeys([stages[0], finishes, begins]))
        assert not out.exists()
    assert stages_of(checkpoint, out) == [stages[0], stages[-1]]
    assert hashes(out) == hashes(whole)
    assert leftovers(out) == []


def test_other_settings_make_only_what_differs(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert convert(checkpoint, out, "--stop-after", "compress").exit_code == 0
    assert not out.exists()
    stages: list[str] = []
    settings = PrepSettings(language=LanguageSettings(weight_format="int8"), vision=PRESETS["exact"].vision)
    model_prep_convert(str(checkpoint), out, settings, on_stage=stages.append)
    assert [stage for stage in stages if "vision" in stage or "exporting" in stage] == []
    assert {"compressing token embeddings", "compressing language model"} <= set(stages)


def test_a_corrected_template_keeps_what_was_exported(altered: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = PRESETS["balanced"]
    template = altered / "chat_template.jinja"
    model_prep_convert(str(altered), out, settings, stop_after="verify")
    template.write_text(template.read_text().replace("[INST]", "[ASK]"))
    stages: list[str] = []
    model_prep_convert(str(altered), out, settings, on_stage=stages.append)
    assert [stage for stage in stages if "exporting" in stage or "compressing" in stage] == []
    assert stages[-3:] == ["config, processor and tokenizer", "verifying", "publishing"]
    assert "[ASK]" in (out / "chat_template.jinja").read_text()


def test_another_checkpoint_in_the_same_place_is_converted_anew(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert convert(checkpoint, out, "--stop-after", "export").exit_code == 0
    other = make_tiny_checkpoint(tmp_path / "other", seed=9)
    assert convert(other, out).exit_code == 0
    assert convert(other, tmp_path / "fresh").exit_code == 0
    assert hashes(out) == hashes(tmp_path / "fresh")


def test_two_conversions_into_one_folder_do_not_meet(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = """
import sys
from pathlib import Path
from model_prep.work import opened
with opened(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(work_path(out))]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        refused = convert(checkpoint, out)
        other.communicate()
    assert refused.exit_code == 2
    assert "Another conversion is at work" in refused.stderr


def test_the_folder_says_what_was_verified(folder: Path) -> None:
    found = Verification.model_validate_json((folder / VERIFICATION_JSON).read_bytes())
    assert found.parity is not None
    assert found.parity.holds
    assert found.parity.token_agreement == 1.0
    assert (found.parity.layers, found.parity.of_layers) == (3, 3)
    assert found.losses == {}
    assert "beside the checkpoint" in (folder / VERIFICATION_MD).read_text()


def test_what_compression_loses_is_measured(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--weight-format", "int8", "--vision-format", "fp16", "--verify", "full")
    assert convert(checkpoint, out, *options).exit_code == 0
    found = Verification.model_validate_json((out / VERIFICATION_JSON).read_bytes())
    assert set(found.losses) == {"vision", "language", "whole"}
    assert 0 <= found.losses["vision"].logit_kl < found.losses["language"].logit_kl < 0.1
    assert found.losses["vision"].size_ratio == pytest.approx(0.5, abs=0.1)
    assert found.losses["language"].size_ratio < 0.4
    assert found.losses["language"].token_agreement > 0.8


@pytest.mark.parametrize("depth", ["full", "quick", "none"])
def test_as_much_is_compared_as_was_asked_for(checkpoint: Path, tmp_path: Path, depth: str) -> None:
    out = tmp_path / "out"
    ran = convert(checkpoint, out, "--verify", depth)
    assert ran.exit_code == 0
    told = [line for line in ran.stderr.splitlines() if line.startswith("compared: ")]
    assert told[-1:] == ([] if depth == "none" else ["compared: 100 %"])
    manifest = FolderManifest.model_validate_json((out / MANIFEST_JSON).read_bytes())
    assert manifest.settings["verify"] == depth
    found = Verification.model_validate_json((out / VERIFICATION_JSON).read_bytes())
    images = 0 if found.parity is None else found.parity.images
    assert images in {"full": {3}, "quick": {1, 2, 3}, "none": {0}}[depth]
    assert (found.left_out is None) == (depth != "none")
    assert (found.allowed_s is not None) == (depth == "quick")
    assert (found.took_s is not None) == (depth != "none")


@pytest.mark.parametrize(
    ("budget_s", "at_once", "images", "whole"),
    [(0.0, 3, 1, False), (1e9, 3, 3, True), (0.0, 1, 1, False), (1e9, 1, 3, True)],
    ids=["no time", "time", "no time, one layer", "time, one layer"],
)
def test_a_quick_comparison_stops_when_its_time_is_up(
    checkpoint: Path, folder: Path, budget_s: float, at_once: int, images: int, whole: bool
) -> None:
    opened = open_checkpoint(str(checkpoint))
    reference = Reference(opened, load_processing(opened))
    told: list[tuple[int, int]] = []
    comparison = Comparison(
        reference, files_in(folder), at_once, lambda done, total: told.append((done, total))
    )
    parity, _ = comparison.compare(drawn_samples(), {}, budget_s)
    assert parity.holds
    assert parity.images == images
    assert (parity.prompt_share == 1) == whole
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert {total for _, total in told} == {images * 2 * 3}
    assert told[-1][0] == told[-1][1]


def files_in(folder: Path) -> dict[str, Path]:
    return {xml: folder / xml for xml in (VISION_XML, TEXT_XML, LANGUAGE_XML)}


def test_what_is_exported_is_not_kept_in_memory(tmp_path: Path) -> None:
    own = make_tiny_checkpoint(tmp_path / "checkpoint", dtype="float16")
    model_prep_convert(str(own), tmp_path / "out", PrepSettings(), stop_after="export")
    assert str(own) not in Path("/proc/self/maps").read_text()


COMPRESSED = {
    "int8": PrepSettings(language=LanguageSettings(weight_format="int8"), samples=2),
    "int4": PrepSettings(
        language=LanguageSettings(weight_format="int4", group_size=32, ratio=0.6, awq=True), samples=2
    ),
    "int8 activations": PRESETS["fast"].model_copy(update={"samples": 2}),
}


@pytest.mark.parametrize("settings", COMPRESSED.values(), ids=COMPRESSED.keys())
def test_losses_of_blocks_of_layers_are_those_of_the_whole(
    checkpoint: Path, tmp_path: Path, settings: PrepSettings
) -> None:
    """The same embeddings through the whole models, and through one and two layers at a time."""
    draw_pictures(tmp_path / "pictures", 2)
    out, work = tmp_path / "out", work_path(tmp_path / "out")
    model_prep_convert(
        str(checkpoint), out, settings, calibration=str(tmp_path / "pictures"), stop_after="compress"
    )
    exact = {xml: work / f"export-{Path(xml).stem}" / xml for xml in files_in(out)}
    compressed = {xml: work / Path(xml).stem / xml for xml in exact}
    wanted = {"vision": {VISION_XML: compressed[VISION_XML]}, "whole": compressed}
    opened = open_checkpoint(str(checkpoint))
    reference = Reference(opened, load_processing(opened))
    samples = drawn_samples()
    expected = {
        name: distance(
            whole_logits(reference, samples, exact), whole_logits(reference, samples, exact | files)
        )
        for name, files in wanted.items()
    }
    assert expected["whole"][1] > 1e-6
    made = [reference.prompt(sample.image, sample.text) for sample in samples]
    for at_once, prompts in ((1, []), (2, made)):
        comparison = Comparison(reference, exact, at_once, prompts=prompts)
        parity, losses = comparison.compare(samples, wanted)
        assert parity.holds
        for name, (agreement, divergence) in expected.items():
            assert losses[name].token_agreement == pytest.approx(agreement, abs=1 / 48)
            assert losses[name].logit_kl == pytest.approx(divergence, rel=1e-3, abs=1e-7)
            assert losses[name].answer_agreement is None


def draw_pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    for number, sample in enumerate(drawn_samples()[:count]):
        sample.image.save(folder / f"{number}.png")


def whole_logits(reference: Reference, samples: Sequence[Sample], files: dict[str, Path]) -> Any:
    """(sample, token, vocabulary) after each prompt and each token of the given reply but the last."""
    vision, embed = compile_part(files[VISION_XML]), compile_part(files[TEXT_XML])
    following = embed(np.array([reference.reply(NEW_TOKENS)[:-1]]))[0]
    prompts = [reference.prompt(one.image, one.text, vision).inputs_embeds for one in samples]
    language = Language(files[LANGUAGE_XML], reference.layers)
    asked = [PromptAndAnswer(prompt, following) for prompt in prompts]
    return np.array(language.logits(asked, lambda _layers: None))


def distance(exact: Any, other: Any) -> tuple[float, float]:
    """Share of most probable tokens that are the same; mean divergence."""
    one, another = (torch.log_softmax(torch.from_numpy(one), -1) for one in (exact, other))
    divergence = torch.nn.functional.kl_div(another, one, log_target=True, reduction="none").sum(-1).mean()
    return float((one.argmax(-1) == another.argmax(-1)).float().mean()), max(0.0, float(divergence))


def test_a_record_of_a_model_in_blocks_has_the_loss_of_every_part(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = PrepSettings(language=LanguageSettings(weight_format="int8"), verify="full")
    model_prep_convert(str(checkpoint), out, settings, memory_bytes=1)
    found = Verification.model_validate_json((out / VERIFICATION_JSON).read_bytes())
    assert set(found.losses) == {"vision", "language", "whole"}
    assert found.left_out is None
    said = (out / VERIFICATION_MD).read_text()
    assert "Memory held 1 of 3 layers" in said
    assert "| – |" in said


def test_a_graph_that_cannot_be_cut_is_told(folder: Path, tmp_path: Path) -> None:
    xml = tmp_path / LANGUAGE_XML
    xml.write_text((folder / LANGUAGE_XML).read_text().replace("decoder.layers.", "decoder.blocks."))
    xml.with_suffix(".bin").symlink_to((folder / LANGUAGE_XML).with_suffix(".bin"))
    with pytest.raises(UncutError):
        Graph(xml)


@pytest.mark.parametrize(
    ("memory_bytes", "layers"),
    [(0, 1), (2 * 4 * (2 + 2 * 12) * 10**6, 2), (2 * 4 * (4 + 2 * 12) * 10**6, 4), (10**12, 32)],
)
def test_as_many_layers_as_memory_holds_are_compared_at_once(memory_bytes: int, layers: int) -> None:
    """Half of it, in float32: a layer of 10^6 in torch, and the rest of 12 · 10^6 twice."""
    million = 10**6
    counts = ParameterCounts(
        vision=10 * million, embeddings=million, layer=million, head=million, language=33 * million
    )
    assert layers_at_once(counts, 32, memory_bytes + 8 * million) == layers


def test_an_export_that_computes_something_else_is_not_published(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tracing gets wrong, a mask that hides nothing here, shows before anyone runs the folder."""
    blind = lambda mask, positions: torch.zeros(mask.shape[0], 1, positions, mask.shape[1])  # noqa: E731
    monkeypatch.setattr("model_prep.wrappers.causal_mask", blind)
    out = tmp_path / "out"
    refused = convert(checkpoint, out)
    assert refused.exit_code == 2
    assert "does not compute what the checkpoint does" in refused.stderr
    assert not out.exists()


def test_the_tokenizer_can_come_as_openvino_models(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert convert(checkpoint, out, "--openvino-tokenizer").exit_code == 0
    manifest = FolderManifest.model_validate_json((out / MANIFEST_JSON).read_bytes())
    assert {"openvino_tokenizer.xml", "openvino_detokenizer.xml"} <= set(manifest.files)


def verify(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


def test_a_whole_folder_passes_and_a_changed_one_does_not(
    checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    passed = verify(folder, "--checkpoint", checkpoint)
    assert passed.exit_code == 0, passed.output
    assert "ok       parity" in passed.stdout
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    (changed / "config.json").write_text("{}")
    (changed / "tokenizer.json").unlink()
    failed = verify(changed)
    assert failed.exit_code == 1
    assert "failed   config.json: is not what was published" in failed.stdout
    assert "failed   tokenizer.json: is missing" in failed.stdout
    assert verify(tmp_path).exit_code == 2


def test_another_checkpoint_than_the_folders_own_fails_parity(folder: Path, tmp_path: Path) -> None:
    other = make_tiny_checkpoint(tmp_path / "other", seed=9)
    failed = verify(folder, "--checkpoint", other)
    assert failed.exit_code == 1
    assert "failed   parity" in failed.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--group-size", "32"], ("group_size", "int4")),
        (["--smooth-quant-alpha", "0.5"], ("smooth_quant_alpha", "int8")),
        (["--weight-format", "int4", "--ratio", "1.5"], ("ratio",)),
        (["--vision-format", "int8"], ("--calibration", "builtin")),
        (["--revision", "main"], ("revision", "folder")),
    ],
    ids=["group", "alpha", "ratio", "calibration", "revision"],
)
def test_options_that_cannot_be_followed_are_refused(
    checkpoint: Path, tmp_path: Path, options: list[str], words: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    assert_refused(convert(checkpoint, out, *options), out, *words)


def test_a_hub_id_is_looked_for_in_the_cache_when_offline(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "model_prep",
        "convert",
        "nobody/nothing",
        "--out",
        str(tmp_path / "out"),
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "nobody/nothing is not a checkpoint" in ran.stderr


def running_conversion(
    checkpoint: Path, out: Path, largest_file_bytes: int | None = None
) -> subprocess.Popen[str]:
    """A conversion in a process of its own, which may write no file larger than this."""

    def before() -> None:
        # A shell that starts the tests in its background leaves them deaf to Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if largest_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, largest_file_bytes))

    command = [sys.executable, "-m", "model_prep", "convert", str(checkpoint), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--preset", "exact"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def test_a_disk_that_is_full_is_told(checkpoint: Path, tmp_path: Path) -> None:
    """A bound on the size of files stands for it: the same call fails in the same place."""
    out = tmp_path / "out"
    with running_conversion(checkpoint, out, largest_file_bytes=200_000) as process:
        _, told = process.communicate(timeout=120)
    assert process.returncode == 2, told
    assert "cannot be written whole" in told
    assert not out.exists()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_a_conversion_that_is_stopped_publishes_nothing_and_can_go_on(
    checkpoint: Path, folder: Path, tmp_path: Path, ending: signal.Signals
) -> None:
    out = tmp_path / "out"
    with running_conversion(checkpoint, out) as process:
        while not list(work_path(out).glob("export-*/.key")):
            assert process.poll() is None, "the conversion ended before it had finished a part"
            time.sleep(0.01)
        process.send_signal(ending)
        process.communicate(timeout=120)
    assert process.returncode != 0
    assert not out.exists()
    assert convert(checkpoint, out).exit_code == 0
    assert hashes(out) == hashes(folder)
    assert leftovers(out) == []
