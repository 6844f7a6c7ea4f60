"""Checkpoints as repositories have them convert, and answer as transformers does with the same weights."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from contract.answer import Answer
from contract.failure import Refusal
from contract.job import Detail, GenerationParameters, Job, Question
from model_prep.convert import convert
from model_prep.settings import PRESETS
from model_prep.verified import VERIFICATION_JSON, Verification
from tests.model_prep.layouts.table import CONTEXT, LAYOUTS, Layout
from tests.support.reference import Reference
from tests.support.runners import EXACT, KV_CACHE_BYTES, paged, stateful
from worker.engine.admission import Limits
from worker.engine.loop import Engine
from worker.engine.request import Request
from worker.images.decoder import Decoder
from worker.images.image_file import ImageLimits
from worker.llava.arrays import FloatArray, IntArray
from worker.llava.image_encoder import ImageFeatures
from worker.llava.model import LlavaModel
from worker.service import Service

TOLERANCE = 1e-4
ONE_LAYER = 1
"""Bytes of memory, with which each language model is compared layer by layer."""
NEW_TOKENS = 10
SIZES = {"square": (112, 112), "wide": (40, 170), "tall": (290, 90), "small": (23, 30)}
"""(height, width) in px"""
QUESTION = "How many red circles are there in the picture?"
OTHER_QUESTION = "What is shown in this image?"
SEARCHES = {
    "greedy": GenerationParameters(max_new_tokens=NEW_TOKENS),
    "4 beams": GenerationParameters(max_new_tokens=NEW_TOKENS, num_beams=4),
}
LIMITS = Limits(kv_bytes=KV_CACHE_BYTES, rows=8, step_tokens=1024)
IMAGE_LIMITS = ImageLimits(max_bytes=10**7, max_px=10**6, max_side_px=10**4, max_aspect=50.0)


class CheckedModel(LlavaModel):
    """Looks up no token beyond the table, where a device may give anything."""

    def embed(self, token_ids: IntArray) -> FloatArray:
        assert token_ids.max() < self._folder.config.text_config.vocab_size
        return super().embed(token_ids)


@dataclass(frozen=True)
class Pair:
    """A layout twice: its twin in transformers, and what a worker holds of the folder made from it."""

    layout: Layout
    twin: Path
    folder: Path
    reference: Reference
    model: LlavaModel
    engine: Engine

    def expected(self, image: Image.Image | list[Image.Image]) -> tuple[list[int], torch.Tensor]:
        """input_ids (position,) and inputs_embeds (position, hidden)."""
        inputs = self.reference.inputs(image, QUESTION)
        seen: list[torch.Tensor] = []
        decoder = self.reference.model.get_decoder()
        hook = decoder.register_forward_pre_hook(
            lambda _module, _args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
        with torch.no_grad():
            self.reference.model(**inputs)
        hook.remove()
        return inputs["input_ids"][0].tolist(), seen[0][0]


@pytest.fixture(scope="module", params=LAYOUTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    layout = LAYOUTS[request.param]
    place = tmp_path_factory.mktemp("layout")
    twin, checkpoint = layout.make(place)
    convert(
        str(checkpoint), place / "folder", PRESETS["exact"], reading=layout.reading, memory_bytes=ONE_LAYER
    )
    model = CheckedModel.load(place / "folder", "CPU", EXACT)
    engine = Engine(stateful(model.language_xml), model.embed, LIMITS)
    yield Pair(layout, twin, place / "folder", Reference(twin, layout.form), model, engine)
    engine.close()


def picture(size: tuple[int, int]) -> Image.Image:
    """An RGB image of `size` (height, width), unlike itself turned, mirrored or moved."""
    height, width = size
    ramp = np.linspace(0, 200, height)[:, None, None] + np.linspace(0, 55, width)[None, :, None]
    noise = np.random.default_rng(height).uniform(-60, 60, (height, width, 3))
    return Image.fromarray((ramp + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_prompt_embeddings_and_tokens_equal_transformers(pair: Pair, size: tuple[int, int]) -> None:
    image = picture(size)
    equal(pair, image, pair.model.encode_image(image), SEARCHES)


def test_several_images_are_asked_about_as_in_transformers(pair: Pair) -> None:
    """Where the template writes the image token itself there is one, and more are refused."""
    several = [picture(SIZES[name]) for name in ("wide", "small", "tall")]
    together = pair.model.joined([pair.model.encode_image(image, alone=False) for image in several])
    if pair.layout.form == "string":
        with pytest.raises(Refusal, match="does not place the conversation's 3 images"):
            pair.model.prompt(Question(id="q", messages=QUESTION), together)
        return
    equal(pair, several, together, {"4 beams": SEARCHES["4 beams"]})


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_auto_detail_lies_between_low_and_high(pair: Pair, size: tuple[int, int]) -> None:
    looks: tuple[Detail, ...] = ("low", "auto", "high")
    low, auto, high = (len(pair.model.encode_image(picture(size), look).packed) for look in looks)
    assert low <= auto <= high
    tiler = pair.model._encoder._tiler
    if tiler.tile_px is not None and max(size) > max(tiler.tile_px) and low < high:
        assert auto > low


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_fewer_image_tokens_keep_their_positions_and_all_marks(pair: Pair, size: tuple[int, int]) -> None:
    image, question = picture(size), Question(id="q", messages=QUESTION)
    whole = pair.model.prompt(question, pair.model.encode_image(image))
    image_token = pair.model._folder.image_token_id
    places = np.flatnonzero(whole.token_ids == image_token)
    features = pair.model.encode_image(image, visual_tokens=max(2, len(places) // 2))
    fewer = pair.model.prompt(question, features)
    if len(places) <= 2:
        assert features.keeps_all
        return
    stays = np.ones(len(whole.token_ids), dtype=np.bool_)
    stays[places] = features.kept[0]
    assert 0 < np.count_nonzero(features.kept[0]) <= len(places) // 2
    positions = np.arange(len(stays)) if whole.positions is None else whole.positions
    assert fewer.positions is not None
    assert fewer.positions.tolist() == positions[stays].tolist()
    assert fewer.token_ids.tolist() == whole.token_ids[stays].tolist()
    assert np.array_equal(fewer.inputs_embeds, whole.inputs_embeds[stays])
    assert whole.image_tokens - fewer.image_tokens == np.count_nonzero(~stays)
    request = Request(
        inputs_embeds=fewer.inputs_embeds,
        positions=fewer.positions,
        token_ids=fewer.token_ids,
        eos_token_ids=pair.model.eos_token_ids,
        parameters=SEARCHES["greedy"],
    )
    assert pair.engine.submit(request).result()[0].token_ids


def equal(
    pair: Pair,
    image: Image.Image | list[Image.Image],
    features: ImageFeatures,
    searches: Mapping[str, GenerationParameters],
) -> None:
    """Prompt, embeddings, tokens and their probabilities are transformers'."""
    input_ids, inputs_embeds = pair.expected(image)
    prompt = pair.model.prompt(Question(id="q", messages=QUESTION), features)
    assert prompt.token_ids.tolist() == input_ids
    assert prompt.inputs_embeds.shape == tuple(inputs_embeds.shape)
    assert np.abs(prompt.inputs_embeds - inputs_embeds.numpy()).max() <= TOLERANCE
    ends = pair.model.eos_token_ids
    for parameters in searches.values():
        request = Request(
            inputs_embeds=prompt.inputs_embeds,
            positions=prompt.positions,
            token_ids=prompt.token_ids,
            eos_token_ids=ends,
            parameters=parameters,
        )
        (found,) = pair.engine.submit(request).result()
        (expected,) = pair.reference.generate(image, QUESTION, ends, parameters)
        assert (found.token_ids, found.finish_reason) == (expected.token_ids, expected.finish_reason)
        assert found.score == pytest.approx(expected.score, abs=TOLERANCE)
        assert found.mean_log_prob == pytest.approx(expected.mean_log_prob, abs=TOLERANCE)


def test_a_job_is_answered_as_transformers_answers(pair: Pair, images: Path) -> None:
    """On paged attention; where the language model has no form with it, that is said.

    Its two questions begin alike, up to the image's last token.
    """
    image = picture(SIZES["wide"])
    image.save(images / "wide.png")
    if not pair.layout.paged:
        with pytest.raises(ValueError, match="The language model has no form with paged attention"):
            paged(pair.model.language_xml)
    runner = (paged if pair.layout.paged else stateful)(pair.model.language_xml)
    engine = Engine(runner, pair.model.embed, LIMITS)
    service = Service(pair.model, engine, lambda _: (images / "wide.png").read_bytes(), Decoder(IMAGE_LIMITS))
    job = Job.model_validate(
        {
            "run": "r",
            "index": 0,
            "image": {"kind": "path", "path": "wide.png"},
            "questions": [{"id": text, "messages": text} for text in (QUESTION, OTHER_QUESTION)],
            "parameters": {"max_new_tokens": NEW_TOKENS},
        }
    )
    results = service.answer(job).results
    service.close()
    tokenizer = pair.reference.processor.tokenizer
    for result in results:
        assert isinstance(result.outcome, Answer), result.outcome
        (expected,) = pair.reference.generate(
            image, result.question, pair.model.eos_token_ids, SEARCHES["greedy"]
        )
        assert result.outcome.text == tokenizer.decode(expected.token_ids, skip_special_tokens=True).strip()


def test_the_export_is_compared_with_one_layer_in_memory(pair: Pair) -> None:
    found = Verification.model_validate_json((pair.folder / VERIFICATION_JSON).read_bytes())
    assert found.left_out is None
    assert found.parity is not None
    assert found.parity.holds
    assert (found.parity.layers, found.parity.token_agreement) == (1, 1.0)
    assert found.parity.of_layers > 1


def test_the_folders_processor_is_as_transformers_writes_it(pair: Pair) -> None:
    """Whatever the checkpoint's files lack of it or have as null."""
    written, expected = (
        json.loads((folder / "processor_config.json").read_text()) for folder in (pair.folder, pair.twin)
    )
    assert written == expected


def test_ends_and_context_are_the_checkpoints(pair: Pair) -> None:
    ends: Any = pair.reference.model.generation_config.eos_token_id
    assert list(pair.model.eos_token_ids) == (ends if isinstance(ends, list) else [ends])
    assert pair.model.context_tokens == pair.layout.context


def test_what_a_worker_does_not_follow_is_said(pair: Pair) -> None:
    notes = Verification.model_validate_json((pair.folder / VERIFICATION_JSON).read_bytes()).notes
    sampling = [f"{name} {value}" for name, value in pair.layout.sampling.items()]
    narrower = pair.layout.context < CONTEXT
    assert [all(word in note for word in sampling) for note in notes if "as each job asks" in note] == (
        [True] if sampling else []
    )
    assert [f"{pair.layout.context} of {CONTEXT}" in note for note in notes if "window" in note] == (
        [True] if narrower else []
    )
