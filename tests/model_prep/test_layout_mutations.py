"""Whatever is wrong with a checkpoint, its conversion ends in one sentence or in a folder that is exact."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from contract.job import Question
from model_prep.checkpoint import load_model, open_checkpoint
from model_prep.convert import convert
from model_prep.generation import end_token_ids
from model_prep.processor import load_processing
from model_prep.refusal import ConversionError
from model_prep.settings import PRESETS
from tests.model_prep.layouts.mutations import Mutation, mutations
from tests.model_prep.layouts.table import LAYOUTS, Layout
from worker.llava.model import LlavaModel

SEED = 1
EACH = 40
"""Mutations of each layout."""
ALWAYS = 10
"""Those of them that `make test` runs; `make soak` runs all."""
NAMES = (
    "llava-hf/llava-1.5-7b-hf, 4.46",
    "llava-hf/llava-v1.6-mistral-7b-hf, 3.2024",
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "mistral-community/pixtral-12b",
    "liuhaotian/llava-v1.5-7b",
)
TEXT = "What is shown, and <image> it?\n"
QUESTION = Question(id="q", messages="What is this?")


@dataclass(frozen=True)
class Base:
    """A layout that converts, and what the files of it come to."""

    layout: Layout
    checkpoint: Path
    read: tuple[str, ...]


def read(checkpoint: Path, layout: Layout) -> tuple[str, ...]:
    """All that a conversion takes from the files; the weights it reads as well. Raises ConversionError."""
    opened = open_checkpoint(str(checkpoint), layout.reading)
    processing = load_processing(opened, layout.reading.chat_template)
    ends = end_token_ids(checkpoint, opened.config, processing.processor.tokenizer)
    load_model(opened, "auto")
    config = opened.config.to_dict()
    config.pop("_name_or_path", None)
    token_ids = processing.processor.tokenizer(TEXT)["input_ids"]
    return tuple(map(repr, (config, processing.processor.to_dict(), processing.template, ends, token_ids)))


@pytest.fixture(scope="module", params=NAMES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    layout: Layout = LAYOUTS[request.param]
    _, checkpoint = layout.make(tmp_path_factory.mktemp("base"))
    return Base(layout, checkpoint, read(checkpoint, layout))


@pytest.mark.parametrize(
    "number", [*range(ALWAYS), *(pytest.param(one, marks=pytest.mark.soak) for one in range(ALWAYS, EACH))]
)
def test_a_broken_checkpoint_gives_one_sentence_or_converts(base: Base, number: int, tmp_path: Path) -> None:
    mutation: Mutation = mutations(base.checkpoint, EACH, SEED)[number]
    spoilt = tmp_path / "checkpoint"
    shutil.copytree(base.checkpoint, spoilt)
    for beside in base.checkpoint.parent.glob("tower"):
        shutil.copytree(beside, tmp_path / "tower")
    mutation.spoil(spoilt)
    out = tmp_path / "folder"
    try:
        if read(spoilt, base.layout) == base.read:
            # To the last number what converts and is exact in test_layouts.
            return
        # Raises ConversionError, too, where the export does not compute what the checkpoint does.
        convert(str(spoilt), out, PRESETS["exact"], reading=base.layout.reading)
    except ConversionError as refusal:
        sentence = str(refusal)
        assert sentence.endswith("."), (mutation.name, sentence)
        assert "\n" not in sentence, (mutation.name, sentence)
        assert len(sentence) < 600, (mutation.name, sentence)
        assert not out.exists()
        return
    model = LlavaModel.load(out, "CPU", {})
    model.prompt(QUESTION, model.encode_image(Image.new("RGB", (90, 50))))
