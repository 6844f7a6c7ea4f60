"""Checkpoints of every kind answer as transformers does in f32: embeddings, logits and greedy tokens."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from contract.answer import Answer
from contract.job import Detail, GenerationParameters, Job, Question
from contract.model_folder import MANIFEST_JSON
from model_prep.checkpoint import load_model, open_checkpoint
from model_prep.convert import convert
from model_prep.export import export_language, export_text, export_vision
from model_prep.processor import load_processing
from model_prep.refusal import ConversionError
from model_prep.settings import PRESETS
from tests.support.families import FAMILIES, SIDE_PATCHES
from tests.support.reference import Reference
from tests.support.runners import EXACT, KV_CACHE_BYTES, paged, stateful
from tests.support.without_torch import run_without_torch
from worker.engine.admission import Limits
from worker.engine.loop import Engine
from worker.engine.request import Request
from worker.engine.runner import SequenceInput
from worker.engine.stateful import StatefulRunner
from worker.images.decoder import Decoder
from worker.images.image_file import ImageLimits
from worker.llava.arrays import FloatArray
from worker.llava.folder import ModelFolderError, read_folder
from worker.llava.model import LlavaModel
from worker.service import Service

TOLERANCE = 1e-4
NEW_TOKENS = 12
SIZES = {"square": (112, 112), "wide": (40, 170), "tall": (290, 90), "small": (23, 30)}
"""(height, width) in px"""
QUESTION = "How many red circles are there in the picture?"
GREEDY = GenerationParameters(max_new_tokens=NEW_TOKENS)
LIMITS = Limits(kv_bytes=KV_CACHE_BYTES, rows=8, step_tokens=1024)
IMAGE_LIMITS = ImageLimits(max_bytes=10**7, max_px=10**6, max_side_px=10**4, max_aspect=50.0)


@dataclass(frozen=True)
class Pair:
    """One checkpoint twice: in transformers, and as what a worker holds of the folder made from it."""

    reference: Reference
    checkpoint: Path
    folder: Path
    model: LlavaModel
    runner: StatefulRunner
    engine: Engine

    def expected(self, image: Image.Image) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """input_ids (position,), inputs_embeds (position, hidden) and the last logits (vocabulary,)."""
        inputs = self.reference.inputs(image, QUESTION)
        seen: list[torch.Tensor] = []
        decoder = self.reference.model.model.language_model
        hook = decoder.register_forward_pre_hook(
            lambda _module, _args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
        with torch.no_grad():
            logits = self.reference.model(**inputs).logits[0, -1]
        hook.remove()
        return inputs["input_ids"][0], seen[0][0], logits

    def prefill(self, inputs_embeds: FloatArray) -> FloatArray:
        """inputs_embeds (position, hidden) → logits (vocabulary,) of the last position."""
        sequence = self.runner.begin(len(inputs_embeds))
        logits: FloatArray = self.runner.step([SequenceInput(sequence, inputs_embeds)])[0]
        self.runner.release(sequence)
        return logits


def converted(checkpoint: Path) -> Path:
    out = checkpoint.parent / "folder"
    convert(str(checkpoint), out, PRESETS["exact"])
    return out


def make_pair(name: str, folder: Path) -> Pair:
    checkpoint = FAMILIES[name](folder / "checkpoint")
    out = converted(checkpoint)
    model = LlavaModel.load(out, "CPU", EXACT)
    engine = Engine(stateful(model.language_xml), model.embed, LIMITS)
    return Pair(Reference(checkpoint), checkpoint, out, model, stateful(model.language_xml), engine)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Pair]]:
    """By their names in FAMILIES, each made when it is first asked for."""
    made: dict[str, Pair] = {}

    def pair_of(name: str) -> Pair:
        if name not in made:
            made[name] = make_pair(name, tmp_path_factory.mktemp("family"))
        return made[name]

    yield pair_of
    for pair in made.values():
        pair.engine.close()


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, pairs: Callable[[str], Pair]) -> Pair:
    return pairs(request.param)


@pytest.fixture(scope="module")
def onevision(pairs: Callable[[str], Pair]) -> Pair:
    return pairs("llava_onevision")


@pytest.fixture(scope="module")
def llava(pairs: Callable[[str], Pair]) -> Pair:
    return pairs("llava")


def picture(size: tuple[int, int]) -> Image.Image:
    """An RGB image of `size` (height, width), unlike itself turned, mirrored or moved."""
    height, width = size
    ramp = np.linspace(0, 200, height)[:, None, None] + np.linspace(0, 55, width)[None, :, None]
    noise = np.random.default_rng(height).uniform(-60, 60, (height, width, 3))
    return Image.fromarray((ramp + noise).clip(0, 255).astype(np.uint8))


def difference(found: FloatArray, expected: torch.Tensor) -> float:
    assert found.shape == tuple(expected.shape)
    return float(np.abs(found - expected.detach().numpy()).max())


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_embeddings_logits_and_greedy_tokens_equal_transformers(pair: Pair, size: tuple[int, int]) -> None:
    image = picture(size)
    input_ids, inputs_embeds, logits = pair.expected(image)
    prompt = pair.model.prompt(Question(id="q", messages=QUESTION), pair.model.encode_image(image))
    assert prompt.token_ids.tolist() == input_ids.tolist()
    assert difference(prompt.inputs_embeds, inputs_embeds) <= TOLERANCE
    assert difference(pair.prefill(prompt.inputs_embeds), logits) <= TOLERANCE
    ends = pair.model.eos_token_ids
    request = Request(
        inputs_embeds=prompt.inputs_embeds, token_ids=prompt.token_ids, eos_token_ids=ends, parameters=GREEDY
    )
    (found,) = pair.engine.submit(request).result()
    (expected,) = pair.reference.generate(image, QUESTION, ends, GREEDY)
    assert (found.token_ids, found.finish_reason) == (expected.token_ids, expected.finish_reason)


def test_logits_tell_images_apart(pair: Pair) -> None:
    """Guards the tolerance: a model that saw nothing would pass the test above."""
    one, other = (
        pair.prefill(
            pair.model.prompt(
                Question(id="q", messages=QUESTION), pair.model.encode_image(picture(size))
            ).inputs_embeds
        )
        for size in ((112, 112), (112, 114))
    )
    assert np.abs(one - other).max() > 100 * TOLERANCE


def test_a_job_is_answered_as_transformers_answers(pair: Pair, images: Path) -> None:
    """On paged attention, the tests above being on the stateful model."""
    image = picture(SIZES["wide"])
    image.save(images / "wide.png")
    engine = Engine(paged(pair.model.language_xml), pair.model.embed, LIMITS)
    service = Service(pair.model, engine, lambda _: (images / "wide.png").read_bytes(), Decoder(IMAGE_LIMITS))
    job = Job.model_validate(
        {
            "run": "r",
            "index": 0,
            "image": {"kind": "path", "path": "wide.png"},
            "questions": [{"id": "q", "messages": QUESTION}],
            "parameters": {"max_new_tokens": NEW_TOKENS},
        }
    )
    (result,) = service.answer(job).results
    service.close()
    assert isinstance(result.outcome, Answer), result.outcome
    (expected,) = pair.reference.generate(image, QUESTION, pair.model.eos_token_ids, GREEDY)
    tokenizer = pair.reference.processor.tokenizer
    assert result.outcome.text == tokenizer.decode(expected.token_ids, skip_special_tokens=True).strip()
    assert result.outcome.completion_tokens == len(expected.token_ids)


def test_the_folder_tells_what_the_checkpoint_told(pair: Pair) -> None:
    config = json.loads((pair.folder / "config.json").read_text())
    model = pair.reference.model
    newline = getattr(model.model, "image_newline", None)
    assert ("image_newline" in config) == (newline is not None)
    if newline is not None:
        assert np.array_equal(np.float32(config["image_newline"]), newline.detach().numpy())
    ends = model.generation_config.eos_token_id
    assert list(pair.model.eos_token_ids) == (ends if isinstance(ends, list) else [ends])
    assert pair.model.hidden == model.config.text_config.hidden_size
    processor = json.loads((pair.folder / "processor_config.json").read_text())
    assert processor["processor_class"] == type(pair.reference.processor).__name__


@pytest.fixture
def altered(onevision: Pair, tmp_path: Path) -> Path:
    """A copy of LLaVA-OneVision's checkpoint that a test may spoil, without weights."""
    return shutil.copytree(
        onevision.checkpoint, tmp_path / "altered", ignore=shutil.ignore_patterns("*.safetensors")
    )


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    change(content)
    path.write_text(json.dumps(content))


SLIDING = {"use_sliding_window": True, "sliding_window": 64}


@pytest.mark.parametrize(
    "window",
    [
        {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 1},
        SLIDING | {"max_window_layers": 2},
        SLIDING | {"sliding_window": 1024, "max_window_layers": 1},
    ],
    ids=["not used", "above every layer", "as wide as the context"],
)
def test_a_sliding_window_that_nothing_slides_in_is_accepted(altered: Path, window: dict[str, Any]) -> None:
    edit(altered / "config.json", lambda config: _set_window(config, window))
    assert open_checkpoint(str(altered)).config.text_config.model_type == "qwen2"


def test_a_sliding_window_that_is_used_caps_the_context(onevision: Pair, altered: Path) -> None:
    """Within it every token sees all before it, so that nothing slides."""
    edit(altered / "config.json", lambda config: _set_window(config, SLIDING | {"max_window_layers": 1}))
    assert open_checkpoint(str(altered)).config.text_config.model_type == "qwen2"
    for path in onevision.folder.glob("openvino_*"):
        (altered / path.name).symlink_to(path)
    edit(
        altered / "config.json",
        lambda config: config.update(image_newline=[0.0] * config["text_config"]["hidden_size"]),
    )
    assert read_folder(altered).context_tokens == SLIDING["sliding_window"]
    assert onevision.model.context_tokens == 1024


def _set_window(config: dict[str, Any], window: dict[str, Any]) -> None:
    del config["text_config"]["layer_types"]
    config["text_config"] |= window


@pytest.mark.parametrize("aspect_ratio", ["anyres", "anyres_max_0", "pad"])
def test_another_aspect_ratio_is_refused(onevision: Pair, altered: Path, aspect_ratio: str) -> None:
    """By model_prep, and by a worker of a folder that another tool made."""
    edit(altered / "config.json", lambda config: config.update(vision_aspect_ratio=aspect_ratio))
    with pytest.raises(ConversionError, match=rf"'{aspect_ratio}' is not supported; supported: anyres_max_N"):
        open_checkpoint(str(altered))
    for path in onevision.folder.glob("openvino_*"):
        (altered / path.name).symlink_to(path)
    with pytest.raises(ModelFolderError, match=rf"'{aspect_ratio}' is not anyres_max_N"):
        read_folder(altered)


def test_an_aspect_ratio_in_another_family_decides_nothing(foreign: Path) -> None:
    edit(foreign / "config.json", lambda config: config.update(vision_aspect_ratio="pad"))
    assert read_folder(foreign).most_plane_tiles is None
    assert open_checkpoint(str(foreign)).family.config.model_type == "llava"


def test_onevisions_processor_is_read_as_the_hub_has_it(onevision: Pair, altered: Path) -> None:
    """In files of their own: the images', and the videos', which nothing here can read."""
    path = altered / "processor_config.json"
    images = json.loads(path.read_text())["image_processor"]
    edit(path, lambda config: config.pop("image_processor"))
    edit(altered / "preprocessor_config.json", lambda config: config.update(images))
    edit(
        altered / "video_preprocessor_config.json",
        lambda config: config.update(video_processor_type="LlavaOnevisionVideoProcessor"),
    )
    processor = load_processing(open_checkpoint(str(altered))).processor
    assert processor.to_dict() == onevision.reference.processor.to_dict()


def test_each_part_is_exported_from_itself_alone(onevision: Pair) -> None:
    """So that a model that does not fit into memory can be read part by part."""
    checkpoint = open_checkpoint(str(onevision.checkpoint))
    vision = ("model.vision_tower", "model.multi_modal_projector")
    language, table = "model.language_model", "model.language_model.embed_tokens"

    def without(*parts: str) -> Any:
        model = load_model(checkpoint)
        for part in parts:
            parent, _, name = part.rpartition(".")
            setattr(model.get_submodule(parent), name, None)
        return model

    export_vision(without(language, "lm_head"))
    export_text(without(*vision, f"{language}.layers", "lm_head"))
    export_language(without(*vision, table))


def looking_less(pair: Pair, most_tiles: int) -> Pair:
    """The checkpoint as if it had only pinpoints of so few tiles; the worker as it is."""
    reference = pair.reference
    side = reference.model.config.vision_config.image_size
    every = reference.model.config.image_grid_pinpoints
    pinpoints = [list(one) for one in every if one[0] * one[1] <= most_tiles * side * side]
    reference.model.config.image_grid_pinpoints = pinpoints
    reference.processor.image_processor.image_grid_pinpoints = pinpoints
    return pair


@pytest.fixture
def cut_short(onevision: Pair) -> Iterator[Pair]:
    every = onevision.reference.model.config.image_grid_pinpoints
    yield looking_less(onevision, 4)
    onevision.reference.model.config.image_grid_pinpoints = every
    onevision.reference.processor.image_processor.image_grid_pinpoints = every


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_a_cap_on_tiles_of_onevision_is_a_smaller_pinpoint_list(
    cut_short: Pair, size: tuple[int, int]
) -> None:
    image = picture(size)
    _, inputs_embeds, _ = cut_short.expected(image)
    features = cut_short.model.encode_image(image, 4)
    prompt = cut_short.model.prompt(Question(id="q", messages=QUESTION), features)
    assert difference(prompt.inputs_embeds, inputs_embeds) <= TOLERANCE


def test_low_detail_of_onevision_is_the_base_tile(onevision: Pair) -> None:
    """And its image newline, as transformers packs a single tile."""
    image = picture(SIZES["wide"])
    inputs = onevision.reference.inputs(image, QUESTION)
    model = onevision.reference.model.model
    with torch.no_grad():
        states = model.vision_tower(inputs["pixel_values"][0, :1], output_hidden_states=True).hidden_states
        (expected,), _ = model.pack_image_features(
            [model.multi_modal_projector(states[-1])], inputs["image_sizes"], model.image_newline
        )
    found = onevision.model.encode_image(image, "low").packed
    assert difference(found, expected) <= TOLERANCE
    assert len(found) == SIDE_PATCHES**2 + 1


def test_planes_of_onevision_are_shrunk_here(onevision: Pair) -> None:
    """Guards the parity above: all four sizes could be too small to shrink."""
    tokens = {size: len(onevision.model.encode_image(picture(size)).packed) for size in SIZES.values()}
    # After the base tile 8 x 8 patches, shrunk to 5 x 5, or 4 x 4 as they are, and an image newline a row.
    assert tokens[SIZES["square"]] == SIDE_PATCHES**2 + 5 * (5 + 1)
    assert tokens[SIZES["small"]] == SIDE_PATCHES**2 + 4 * (4 + 1)


def test_llava_has_one_view_for_every_detail(llava: Pair) -> None:
    """Of one key, so that questions of different detail share what was encoded."""
    details: tuple[Detail, ...] = ("low", 1, 4, "high")
    seen = [llava.model.encode_image(picture(SIZES["tall"]), detail) for detail in details]
    assert len({features.key for features in seen}) == 1
    assert {len(features.packed) for features in seen} == {SIDE_PATCHES**2}


@pytest.mark.parametrize("name", ["llava", "llava_onevision"])
def test_a_worker_needs_no_torch(pairs: Callable[[str], Pair], name: str) -> None:
    run = run_without_torch(pairs(name).folder)
    assert run.returncode == 0, run.stderr


@pytest.fixture
def foreign(llava: Pair, tmp_path: Path) -> Path:
    """A copy of LLaVA-1.5's folder without manifest, which a test may spoil."""
    copy = shutil.copytree(llava.folder, tmp_path / "foreign")
    (copy / MANIFEST_JSON).unlink()
    return copy


def test_a_llava_folder_as_optimum_leaves_it_is_taken(llava: Pair, foreign: Path) -> None:
    """No manifest, no image_newline, no processor_config.json."""
    (foreign / "processor_config.json").unlink()
    image = picture(SIZES["wide"])
    theirs = LlavaModel.load(foreign, "CPU", EXACT).encode_image(image)
    assert np.array_equal(llava.model.encode_image(image).packed, theirs.packed)


@pytest.mark.parametrize("name", ["image_token_index", "image_token_id"])
def test_the_image_token_goes_by_either_name(foreign: Path, name: str) -> None:
    config = json.loads((foreign / "config.json").read_text())
    token_id = config.pop("image_token_index")
    (foreign / "config.json").write_text(json.dumps(config | {name: token_id}))
    assert read_folder(foreign).image_token_id == token_id == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": [[56, 112]]},
            "leaves images whole, and its own is a LlavaNextImageProcessorPil",
        ),
        ({"image_processor_type": "NoSuchProcessor"}, "image processor of .* cannot be read"),
        ({"do_center_crop": False}, r"tiles are \(None, None\) px"),
    ],
    ids=["tiles", "unknown", "no crop"],
)
def test_an_image_processor_that_does_not_fit_is_refused(
    foreign: Path, changes: dict[str, Any], words: str
) -> None:
    (foreign / "processor_config.json").unlink()
    path = foreign / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelFolderError, match=words):
        LlavaModel.load(foreign, "CPU", {})
