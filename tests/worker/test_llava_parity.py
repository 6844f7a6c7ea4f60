"""Compares images, prompts and prefill of a converted folder with transformers in float32; no scheduler."""

from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor

from contract.job import Detail, ImagePart, Question, TextPart, Turn
from worker.engine.runner import SequenceInput
from worker.engine.stateful import StatefulRunner
from worker.llava.arrays import FloatArray, IntArray
from worker.llava.model import LlavaModel
from worker.llava.tiles import AnyresTiler

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
TOLERANCE = 1e-4

SIZES = {
    "square": (112, 112),
    "small": (23, 23),
    "wide": (40, 150),
    "tall": (170, 50),
    "nearly square": (99, 101),
    "beyond every pinpoint": (480, 640),
    "very wide": (20, 300),
    "very tall": (300, 20),
}
"""(height, width) in px"""

QUESTIONS = {
    "plain": Question(id="plain", messages="How many red circles are there in the picture?"),
    "follow-up": Question(
        id="follow-up",
        messages=(
            Turn(role="user", content=(ImagePart(), TextPart(text="What is shown in this image?"))),
            Turn(role="assistant", content="A large red circle."),
            Turn(role="user", content="Is the blue square to the left of it?"),
        ),
    ),
    "image last": Question(
        id="image last",
        messages=(Turn(role="user", content=(TextPart(text="Describe the image."), ImagePart())),),
    ),
}
TEXT_ONLY = Question(id="text only", messages=(Turn(role="user", content="What is a circle?"),))


@dataclass(frozen=True)
class Pair:
    """One checkpoint twice: in transformers and as a converted folder."""

    reference: LlavaNextForConditionalGeneration
    processor: LlavaNextProcessor
    model: LlavaModel
    runner: StatefulRunner

    def expected(self, question: Question, image: Image.Image | None) -> Any:
        """The inputs that transformers' processor makes of a conversation."""
        messages = [turn.model_dump() for turn in question.turns(with_image=image is not None)]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        return self.processor(images=image, text=text, return_tensors="pt")

    def prefill(self, inputs_embeds: FloatArray) -> FloatArray:
        """inputs_embeds (position, hidden) → logits (vocabulary,) of the last position."""
        sequence = self.runner.begin(len(inputs_embeds))
        logits: FloatArray = self.runner.step([SequenceInput(sequence, inputs_embeds)])[0]
        self.runner.release(sequence)
        return logits


@pytest.fixture(scope="module")
def pair(checkpoint_and_folder: tuple[Path, Path]) -> Pair:
    checkpoint, folder = checkpoint_and_folder
    model = LlavaModel.load(folder, "CPU", EXACT)
    return Pair(
        reference=LlavaNextForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval(),
        processor=LlavaNextProcessor.from_pretrained(checkpoint),
        model=model,
        runner=StatefulRunner.load(model.language_xml, "CPU", EXACT),
    )


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """An RGB image of `size` (height, width), unlike itself turned, mirrored or moved."""
    height, width = size
    ramp = np.linspace(0, 200, height)[:, None, None] + np.linspace(0, 55, width)[None, :, None]
    noise = np.random.default_rng(seed).uniform(-60, 60, (height, width, 3))
    return Image.fromarray((ramp + noise).clip(0, 255).astype(np.uint8))


def difference(found: FloatArray, expected: torch.Tensor) -> float:
    assert found.shape == tuple(expected.shape)
    return float(np.abs(found - expected.detach().numpy()).max())


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_packed_image_features_equal_transformers(pair: Pair, size: tuple[int, int]) -> None:
    image = picture(size)
    inputs = pair.expected(QUESTIONS["plain"], image)
    with torch.no_grad():
        expected = pair.reference.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
    assert difference(pair.model.encode_image(image).packed, expected.pooler_output[0]) <= TOLERANCE


def looking_less(pair: Pair, detail: Detail) -> tuple[Any, Any]:
    """Processor and reference as if the checkpoint had only the pinpoints that `detail` allows."""
    every = pair.processor.image_processor.image_grid_pinpoints
    side = pair.reference.config.vision_config.image_size
    most = (0 if detail == "low" else detail) * side * side
    pinpoints = [list(one) for one in every if detail == "high" or one[0] * one[1] <= most]
    processor, reference = copy(pair.processor), copy(pair.reference.model)
    processor.image_processor = copy(pair.processor.image_processor)
    reference.config = copy(reference.config)
    processor.image_processor.image_grid_pinpoints = pinpoints
    reference.config.image_grid_pinpoints = pinpoints
    return processor, reference


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("most_tiles", [2, 3, 4])
def test_a_cap_on_tiles_is_a_smaller_pinpoint_list(
    pair: Pair, most_tiles: int, size: tuple[int, int]
) -> None:
    image = picture(size)
    processor, reference = looking_less(pair, most_tiles)
    messages = [turn.model_dump() for turn in QUESTIONS["plain"].turns(with_image=True)]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=image, text=text, return_tensors="pt")
    with torch.no_grad():
        expected = reference.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
    features = pair.model.encode_image(image, most_tiles)
    assert difference(features.packed, expected.pooler_output[0]) <= TOLERANCE
    prompt = pair.model.prompt(QUESTIONS["plain"], features)
    assert prompt.token_ids.tolist() == inputs["input_ids"][0].tolist()


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_low_detail_is_the_base_tile_alone(pair: Pair, size: tuple[int, int]) -> None:
    """transformers never makes a single tile, but packs one."""
    image = picture(size)
    pixel_values = pair.expected(QUESTIONS["plain"], image)["pixel_values"]
    _, reference = looking_less(pair, "low")
    config = reference.config
    with torch.no_grad():
        states = reference.vision_tower(pixel_values[0, :1], output_hidden_states=True).hidden_states
        layers = config.vision_feature_layer
        chosen = [states[layer] for layer in (layers if isinstance(layers, list) else [layers])]
        features = reference.multi_modal_projector(torch.cat(chosen, dim=-1)[:, 1:])
        (expected,), _ = reference.pack_image_features(
            [features], [size], config.vision_feature_select_strategy, reference.image_newline
        )
    found = pair.model.encode_image(image, "low")
    assert difference(found.packed, expected) <= TOLERANCE
    assert pair.model.prompt(QUESTIONS["plain"], found).image_tokens == len(expected)


@pytest.mark.parametrize(
    ("tiles", "more_px", "same"),
    [
        ((1, 1), (0, 0), "low"),
        ((1, 1), (1, 0), 2),
        ((1, 2), (-30, 0), 2),
        ((2, 1), (0, 1), 4),
        ((3, 1), (0, 0), 3),
        ((9, 12), (0, 0), "high"),
    ],
)
def test_auto_detail_takes_the_tiles_that_the_image_covers(
    pair: Pair, tiles: tuple[int, int], more_px: tuple[int, int], same: Detail
) -> None:
    image_processor = pair.processor.image_processor
    tile_px = AnyresTiler(image_processor).tile_px
    image = picture((tiles[0] * tile_px[0] + more_px[0], tiles[1] * tile_px[1] + more_px[1]))
    found, expected = pair.model.encode_image(image, "auto"), pair.model.encode_image(image, same)
    assert np.array_equal(found.packed, expected.packed)
    assert len(found.packed) <= len(pair.model.encode_image(image).packed)


def test_details_that_allow_the_same_tiles_are_one(pair: Pair) -> None:
    """Of equal key, so that neither features nor prefill are computed again; other details are others."""
    image = picture((170, 50))
    key = {detail: pair.model.encode_image(image, detail).key for detail in ("low", 2, 1024, "high")}
    assert key["high"] == key[1024]
    assert len({key["low"], key[2], key["high"]}) == 3


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_prompt_and_prefill_equal_transformers(pair: Pair, question: Question, size: tuple[int, int]) -> None:
    image = picture(size)
    inputs = pair.expected(question, image)
    features = pair.model.encode_image(image)
    prompt = pair.model.prompt(question, features)
    assert prompt.token_ids.tolist() == inputs["input_ids"][0].tolist()
    assert prompt.image_tokens == len(features.packed)
    with torch.no_grad():
        expected = pair.reference(**inputs).logits[0, -1]
    assert difference(pair.prefill(prompt.inputs_embeds), expected) <= TOLERANCE


def test_a_prompt_without_image_equals_transformers(pair: Pair) -> None:
    prompt = pair.model.prompt(TEXT_ONLY, None)
    inputs = pair.expected(TEXT_ONLY, None)
    assert prompt.token_ids.tolist() == inputs["input_ids"][0].tolist()
    assert prompt.image_tokens == 0
    with torch.no_grad():
        expected = pair.reference(**inputs).logits[0, -1]
    assert difference(pair.prefill(prompt.inputs_embeds), expected) <= TOLERANCE


def test_a_question_about_no_image_leaves_the_jobs_image_out(pair: Pair) -> None:
    features = pair.model.encode_image(picture((40, 150)))
    with_features, without = pair.model.prompt(TEXT_ONLY, features), pair.model.prompt(TEXT_ONLY, None)
    assert with_features.image_tokens == 0
    assert with_features.token_ids.tolist() == without.token_ids.tolist()
    assert np.array_equal(with_features.inputs_embeds, without.inputs_embeds)


def test_logits_tell_images_and_questions_apart(pair: Pair) -> None:
    """Guards the tolerance: a model that answers everything alike would pass every test above."""

    def logits(image: Image.Image, question: Question) -> FloatArray:
        return pair.prefill(pair.model.prompt(question, pair.model.encode_image(image)).inputs_embeds)

    plain = logits(picture((40, 150)), QUESTIONS["plain"])
    assert np.abs(plain - logits(picture((150, 40)), QUESTIONS["plain"])).max() > 100 * TOLERANCE
    assert np.abs(plain - logits(picture((40, 150)), QUESTIONS["follow-up"])).max() > 100 * TOLERANCE


def test_embeddings_of_many_rows_equal_transformers(pair: Pair) -> None:
    token_ids: IntArray = np.arange(12, dtype=np.int64).reshape(3, 4)
    expected = pair.reference.get_input_embeddings()(torch.from_numpy(token_ids))
    assert difference(pair.model.embed(token_ids), expected) == 0


def test_decode_leaves_special_tokens_out(pair: Pair) -> None:
    tokenizer = pair.processor.tokenizer
    token_ids = [tokenizer.bos_token_id, *tokenizer(" A red circle. ", add_special_tokens=False)["input_ids"]]
    assert pair.model.decode([*token_ids, pair.model.eos_token_ids[0]]) == "A red circle."


def test_threads_at_once_get_what_one_alone_gets(pair: Pair) -> None:
    sizes = list(SIZES.values()) * 4
    alone = [pair.model.encode_image(picture(size, seed)).packed for seed, size in enumerate(sizes)]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(pair.model.encode_image, map(picture, sizes, range(len(sizes)))))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other.packed)
