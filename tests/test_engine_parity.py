"""Image and question to tokens: the worker's model and engine equal transformers' LLaVA-NeXT in f32."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor, PreTrainedTokenizerFast
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from contract.job import Question
from demo.scenes import Layout, draw, make_scene
from tests.conftest import DEMO_MODEL
from worker.engine.loop import Engine
from worker.engine.request import Generation, Request
from worker.engine.stateful import StatefulRunner
from worker.llava.model import LlavaModel

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
LOGITS_ATOL = 1e-4
MAX_NEW_TOKENS = 48
QUESTION = "Describe the image."
SIZES_PX = {  # height, width
    "square": (112, 112),
    "wide": (60, 190),
    "tall": (210, 75),
    "slightly wide": (101, 113),
    "slightly tall": (120, 97),
    "small": (20, 31),
}
LAYOUTS: tuple[Layout, ...] = ("square", "wide", "tall")


def noise(size_px: tuple[int, int]) -> Image.Image:
    """(height, width) of noise, in which no two parts look the same, so that a swapped tile or row shows."""
    draw_noise = np.random.default_rng(size_px[0])
    return Image.fromarray(draw_noise.integers(0, 256, size=(*size_px, 3), dtype=np.uint8))


def pictures_for(checkpoint: Path) -> dict[str, Image.Image]:
    """Noise for random weights, scenes for the trained model, which is undecided about noise."""
    if DEMO_MODEL not in checkpoint.parents:
        return {name: noise(size_px) for name, size_px in SIZES_PX.items()}
    return {f"{layout} {seed}": draw(make_scene(seed, layout)) for layout in LAYOUTS for seed in (1, 2)}


class Reference:
    """The checkpoint in transformers, with the processor it ships."""

    def __init__(self, checkpoint: Path) -> None:
        self.model = LlavaNextForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.processor = LlavaNextProcessor.from_pretrained(
            checkpoint,
            image_processor=LlavaNextImageProcessorPil.from_pretrained(checkpoint),
            tokenizer=PreTrainedTokenizerFast.from_pretrained(checkpoint),
        )

    def inputs(self, image: Image.Image) -> Any:
        content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )

    def logits(self, image: Image.Image) -> Any:
        with torch.no_grad():
            return self.model(**self.inputs(image)).logits[:, -1].numpy()

    def generate(self, image: Image.Image, num_beams: int) -> tuple[list[int], float | None]:
        """New tokens, and their score if beams have one."""
        inputs = self.inputs(image)
        found = self.model.generate(
            **inputs,
            num_beams=num_beams,
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            return_dict_in_generate=True,
            output_scores=True,
        )
        score = found.sequences_scores[0].item() if num_beams > 1 else None
        return found.sequences[0, inputs["input_ids"].shape[1] :].tolist(), score


@dataclass(frozen=True)
class Pair:
    """One checkpoint twice: in transformers, and as model and runner of a worker."""

    reference: Reference
    model: LlavaModel
    runner: StatefulRunner
    pictures: dict[str, Image.Image]

    def generate(self, image: Image.Image, num_beams: int) -> Generation:
        prompt = self.model.prompt(Question(id="q", messages=QUESTION), self.model.encode_image(image))
        engine = Engine(self.runner, self.model.embed)
        request = Request(
            inputs_embeds=prompt.inputs_embeds,
            max_new_tokens=MAX_NEW_TOKENS,
            num_beams=num_beams,
            eos_token_ids=self.model.eos_token_ids,
        )
        generation = engine.submit(request).result(timeout=300)
        engine.close()
        return generation


@pytest.fixture(scope="module")
def pair(checkpoint_and_folder: tuple[Path, Path]) -> Pair:
    checkpoint, folder = checkpoint_and_folder
    model = LlavaModel.load(folder, "CPU", EXACT)
    runner = StatefulRunner.load(model.language_xml, "CPU", EXACT)
    return Pair(Reference(checkpoint), model, runner, pictures_for(checkpoint))


def test_prompts_and_prefill_logits_equal(pair: Pair) -> None:
    for name, picture in pair.pictures.items():
        prompt = pair.model.prompt(Question(id="q", messages=QUESTION), pair.model.encode_image(picture))
        assert prompt.token_ids.tolist() == pair.reference.inputs(picture)["input_ids"][0].tolist(), name
        logits = pair.runner.prefill(prompt.inputs_embeds[None])
        pair.runner.release()
        np.testing.assert_allclose(
            logits, pair.reference.logits(picture), rtol=0, atol=LOGITS_ATOL, err_msg=name
        )


@pytest.mark.parametrize("num_beams", [1, 4])
def test_whole_answers_equal(pair: Pair, num_beams: int) -> None:
    found, expected = {}, {}
    for name, picture in pair.pictures.items():
        generation = pair.generate(picture, num_beams)
        token_ids, score = pair.reference.generate(picture, num_beams)
        found[name], expected[name] = list(generation.token_ids), token_ids
        if score is not None:
            assert generation.score == pytest.approx(score, abs=1e-4), name
    assert found == expected
    assert len({tuple(token_ids) for token_ids in found.values()}) > 1, (
        "a model that looks at nothing equals itself"
    )
