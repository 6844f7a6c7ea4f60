"""The model folders that a worker must refuse and those that it must take; converts nothing itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from PIL import Image

from contract.model_folder import CONFIG_JSON, LANGUAGE_XML, MANIFEST_JSON, PIXEL_VALUES, TEXT_XML, VISION_XML
from worker.llava.folder import ModelFolderError, read_folder
from worker.llava.model import LlavaModel

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


@pytest.fixture
def foreign(folder: Path) -> Path:
    """A folder without our manifest, as optimum-intel writes it."""
    (folder / MANIFEST_JSON).unlink()
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_published_folder_tells_what_a_worker_needs(folder: Path) -> None:
    model = LlavaModel.load(folder, "CPU", {})
    assert model.model_id == json.loads((folder / MANIFEST_JSON).read_text())["model"]
    assert (model.hidden, model.context_tokens, model.eos_token_ids) == (64, 1024, (2,))
    assert model.language_xml == folder / LANGUAGE_XML


def test_a_folder_without_manifest_goes_by_its_name(foreign: Path) -> None:
    assert read_folder(foreign).model_id == "copy"


def test_a_folder_as_optimum_leaves_it_is_taken(tiny_folder: Path, foreign: Path) -> None:
    """No manifest, tiles of any size in the vision model, its own tokenizer models, fewer processor files."""
    vision = openvino.Core().read_model(foreign / VISION_XML)
    vision.reshape({PIXEL_VALUES: [-1, 3, -1, -1]})
    openvino.save_model(vision, foreign / "reshaped.xml", compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        (foreign / "reshaped").with_suffix(suffix).replace((foreign / VISION_XML).with_suffix(suffix))
    (foreign / "openvino_tokenizer.xml").write_text("<net/>")
    (foreign / "processor_config.json").unlink()
    picture = Image.new("RGB", (90, 60), "red")
    ours, theirs = (LlavaModel.load(path, "CPU", EXACT) for path in (tiny_folder, foreign))
    assert theirs.model_id == "copy"
    np.testing.assert_allclose(
        theirs.encode_image(picture).packed, ours.encode_image(picture).packed, rtol=0, atol=1e-5
    )


def test_a_changed_file_is_refused(folder: Path) -> None:
    weights = (folder / VISION_XML).with_suffix(".bin")
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelFolderError, match=rf"{weights.name} differs from its manifest"):
        read_folder(folder)


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json, which its manifest names, is missing"):
        read_folder(folder)


@pytest.mark.parametrize("name", [CONFIG_JSON, VISION_XML, TEXT_XML, LANGUAGE_XML])
def test_what_is_no_model_folder_is_refused(foreign: Path, name: str) -> None:
    (foreign / name).unlink()
    with pytest.raises(ModelFolderError, match=f"is no model folder: it has no {name}"):
        read_folder(foreign)


def test_a_broken_manifest_is_refused(folder: Path) -> None:
    edit(folder / MANIFEST_JSON, lambda manifest: manifest.update(version=99))
    with pytest.raises(ModelFolderError, match="is not a valid manifest"):
        read_folder(folder)


@pytest.mark.parametrize(
    "change",
    [lambda config: config.pop("image_newline"), lambda config: config["image_newline"].pop()],
    ids=["none", "one number short"],
)
def test_a_folder_without_image_newline_is_refused(
    foreign: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(foreign / CONFIG_JSON, change)
    with pytest.raises(ModelFolderError, match="no image_newline of 64 numbers"):
        read_folder(foreign)


def test_another_model_type_is_refused(foreign: Path) -> None:
    edit(foreign / CONFIG_JSON, lambda config: config.update(model_type="blip-2"))
    names = "llava, vipllava, llava_next, llava_next_video, llava_onevision"
    with pytest.raises(ModelFolderError, match=f"'blip-2'; this worker runs {names}"):
        read_folder(foreign)


def test_tiles_that_do_not_fit_the_vision_model_are_refused(foreign: Path) -> None:
    for name in ("processor_config.json", "preprocessor_config.json"):
        edit(foreign / name, _set_crop_size)
    with pytest.raises(ModelFolderError, match=r"tiles are \(28, 28\) px and its vision model reads 56 px"):
        LlavaModel.load(foreign, "CPU", {})


def _set_crop_size(config: dict[str, object]) -> None:
    processor = config.get("image_processor", config)
    assert isinstance(processor, dict)
    processor["crop_size"] = {"height": 28, "width": 28}


def test_a_folder_without_chat_template_is_refused(foreign: Path) -> None:
    (foreign / "chat_template.jinja").unlink()
    with pytest.raises(ModelFolderError, match="no chat template"):
        LlavaModel.load(foreign, "CPU", {})


def test_the_template_is_found_where_transformers_4_kept_it(foreign: Path) -> None:
    template = (foreign / "chat_template.jinja").read_text()
    (foreign / "chat_template.jinja").unlink()
    (foreign / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    LlavaModel.load(foreign, "CPU", {})


@pytest.mark.parametrize(("eos", "expected"), [(7, (7,)), ([2, 9], (2, 9))], ids=["one", "several"])
def test_every_end_token_is_known(foreign: Path, eos: object, expected: tuple[int, ...]) -> None:
    edit(foreign / "generation_config.json", lambda config: config.update(eos_token_id=eos))
    assert read_folder(foreign).eos_token_ids == expected


def test_the_language_models_end_token_serves_without_a_generation_config(foreign: Path) -> None:
    (foreign / "generation_config.json").unlink()
    assert read_folder(foreign).eos_token_ids == (2,)
