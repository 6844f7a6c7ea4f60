"""The demo's scenes and their truth: seeded, unambiguous, and written down as the chat template does."""

import itertools
import random
import re
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaNextForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from demo.samples import COUNT, IMAGES, read_truth
from demo.scenes import CLEAR_UNITS, RADIUS, draw, make_scene
from demo.training.scene_store import NEWLINE, Fit
from demo.training.shape import PATCHES, PINPOINTS, TILE_PX, model_config
from demo.training.text import Conversations, draw_exchanges, train_tokenizer
from demo.truth import TOPICS, Topic, ask, describe

SEEDS = range(200)


def test_a_seed_is_a_picture() -> None:
    first, again, other = (np.asarray(draw(make_scene(seed, scale=1.5))) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_nothing_overlaps_and_the_reading_order_is_plain() -> None:
    for seed in SEEDS:
        scene = make_scene(seed)
        axis = 0 if scene.reads_downwards else 1
        along = [shape.centre[axis] for shape in scene.shapes]
        assert all(b - a >= CLEAR_UNITS for a, b in itertools.pairwise(along))
        for shape in scene.shapes:
            for centre, side in zip(shape.centre, scene.canvas, strict=True):
                assert RADIUS[shape.size] <= centre <= side - RADIUS[shape.size]


def test_every_layout_and_topic_comes_up() -> None:
    layouts: Counter[str] = Counter()
    topics: Counter[str] = Counter()
    for seed in SEEDS:
        scene = make_scene(seed)
        layouts[scene.layout] += 1
        topics.update(topic for topic in TOPICS if ask(scene, topic, random.Random(seed)))
    assert min(layouts[layout] for layout in ("square", "wide", "tall")) > 30
    assert min(topics[topic] for topic in TOPICS) > 80


def test_answers_are_read_off_the_scene() -> None:
    """Counted again from the question's words."""
    checked: Counter[str] = Counter()
    for seed in SEEDS:
        scene = make_scene(seed)
        assert all(shape.name in describe(scene) for shape in scene.shapes)
        by_colour = {shape.colour: shape for shape in scene.shapes}
        topics: tuple[Topic, ...] = ("count", "shape", "size", "yes-no", "position")
        for topic in topics:
            asked = ask(scene, topic, random.Random(seed))
            if asked is None:
                continue
            named = [by_colour[word] for word in re.findall(r"\w+", asked.question) if word in by_colour]
            if topic == "count" and named:
                expected = str(sum(shape.colour == named[0].colour for shape in scene.shapes))
            elif topic in ("shape", "size"):
                expected = named[0].kind if topic == "shape" else named[0].size
            elif topic == "yes-no" and not named:
                expected = "no"
            elif topic == "position":
                step = 1 if "right of" in asked.question or "below" in asked.question else -1
                expected = scene.shapes[scene.shapes.index(named[0]) + step].colour
            else:
                continue
            assert asked.answer == expected, asked
            checked[topic] += 1
    assert len(checked) == 5


def test_the_sample_images_are_those_of_the_truth() -> None:
    truth = read_truth()
    assert sorted(truth) == sorted(path.name for path in IMAGES.iterdir())
    assert len(truth) == COUNT >= 24
    sizes = [Image.open(IMAGES / name).size for name in truth]
    assert sum(width > 1.8 * height for width, height in sizes) >= 3
    assert sum(height > 1.8 * width for width, height in sizes) >= 3


def test_training_sees_what_transformers_sees() -> None:
    """Tiles, and the order in which tiles are packed, over pictures of every grid."""
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE_PX},
        crop_size={"height": TILE_PX, "width": TILE_PX},
        image_grid_pinpoints=PINPOINTS,
    )
    mean, std = (np.array(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    with torch.device("meta"):
        model = LlavaNextForConditionalGeneration(model_config(300)).model
    grids = set()
    for seed in range(60):
        image = draw(make_scene(seed))
        fit = Fit.of((image.height, image.width))
        tiles = fit.tiles(image, Image.Resampling.BICUBIC)
        expected = processor(image, return_tensors="np")["pixel_values"][0]
        assert np.abs((tiles.transpose(0, 3, 1, 2) / 255 - mean) / std - expected).max() < 1e-4
        features = torch.randn(len(tiles), PATCHES, 3)
        newline = torch.full((3,), 9.0)
        packed, _ = model.pack_image_features([features], torch.tensor([fit.picture]), "default", newline)
        table = torch.cat([features.flatten(0, 1), newline[None]])
        order = np.where(fit.packing() == NEWLINE, len(table) - 1, fit.packing())
        assert torch.equal(table[torch.from_numpy(order)], packed[0])
        grids.add(fit.grid)
    assert len(grids) >= 4


@pytest.mark.parametrize("seed", [5, 11])
def test_conversations_are_written_as_the_chat_template_writes_them(seed: int) -> None:
    tokenizer = train_tokenizer(range(2_000_000, 2_000_100))
    exchanges = draw_exchanges(seed, random.Random(seed), turns=5)
    written = Conversations(tokenizer).write(exchanges, image_tokens=4)
    messages: list[dict[str, object]] = []
    for exchange in exchanges:
        image = [] if messages else [{"type": "image"}]
        messages.append({"role": "user", "content": [*image, {"type": "text", "text": exchange.question}]})
        messages.append({"role": "assistant", "content": exchange.answer})
    text = tokenizer.apply_chat_template(messages, tokenize=False).replace("<image>", "<image>" * 4)
    expected = tokenizer(text.removesuffix(" "))["input_ids"]
    assert written.ids.tolist() == expected
    for number, exchange in enumerate(exchanges, 1):
        answer = written.ids[np.flatnonzero(written.answer_of_next == number) + 1]
        assert tokenizer.decode(answer) == f" {exchange.answer}</s>"
