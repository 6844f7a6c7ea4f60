"""What questions and jobs about one image share: features encoded once, and how their prompts begin."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contract.failure import FailureCode, Refusal
from contract.job import Detail, ImagePart, Question, TextPart, Turn
from tests.worker.test_llava_parity import picture
from worker.device_scheduler import DeviceScheduler
from worker.lane import Lane
from worker.llava.model import LlavaModel
from worker.look import Look

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
IMAGE = ImagePart()


def ask(*turns: Turn, text: str = "What is it?") -> Question:
    return Question(id="q", messages=turns or text)


def user(*parts: TextPart | ImagePart) -> Turn:
    return Turn(role="user", content=parts)


class Camera:
    """An image file that counts how often it is decoded."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.decoded = 0

    def decode(self) -> Image.Image:
        self.decoded += 1
        return picture((60, 130), seed=len(self.content))


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LlavaModel:
    return LlavaModel.load(tiny_folder, "CPU", EXACT, image_cache_bytes=2**20)


def test_an_image_is_decoded_and_encoded_once_for_each_detail(model: LlavaModel) -> None:
    camera = Camera(b"one")
    details: tuple[Detail, ...] = ("high", "low", 2, "low", "high", 2)
    found = [model.features(camera.content, camera.decode, Look(detail)) for detail in details]
    assert camera.decoded == 3
    assert np.shares_memory(found[0].packed, found[4].packed)
    assert len({features.key for features in found}) == 3
    assert [len(one.packed) for one in found[:3]] == [94, 17, 52]
    other = Camera(b"another")
    assert model.features(other.content, other.decode).key not in {features.key for features in found}
    assert other.decoded == 1


class Turns(DeviceScheduler):
    """Notes each turn that is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    @contextmanager
    def image_turn(self, lane: Lane) -> Iterator[None]:
        self.events.append(f"{lane} image")
        with super().image_turn(lane):
            yield
        self.events.append("ready")

    @contextmanager
    def vision_turn(self, lane: Lane) -> Iterator[None]:
        self.events.append(f"{lane} vision")
        with super().vision_turn(lane):
            yield


@pytest.mark.parametrize("lane", Lane)
def test_an_image_is_decoded_in_one_turn_and_encoded_in_the_next(tiny_folder: Path, lane: Lane) -> None:
    turns = Turns()

    def decode() -> Image.Image:
        turns.events.append("decode")
        return picture((60, 130), seed=1)

    model = LlavaModel.load(tiny_folder, "CPU", EXACT, device=turns)
    model.features(b"one", decode, lane=lane)
    assert turns.events == [f"{lane} image", "decode", "ready", f"{lane} vision"]


def test_without_a_budget_nothing_is_kept(tiny_folder: Path) -> None:
    model, camera = LlavaModel.load(tiny_folder, "CPU", EXACT), Camera(b"one")
    first, second = (model.features(camera.content, camera.decode) for _ in range(2))
    assert camera.decoded == 2
    assert first.key == second.key


def test_a_file_that_cannot_be_decoded_is_read_again(model: LlavaModel) -> None:
    camera = Camera(b"broken")

    def broken() -> Image.Image:
        camera.decode()
        raise Refusal(FailureCode.IMAGE_BROKEN, "It is broken.")

    for _ in range(2):
        with pytest.raises(Refusal, match="It is broken"):
            model.features(camera.content, broken)
    assert camera.decoded == 2


def test_questions_about_an_image_begin_alike(model: LlavaModel) -> None:
    features = model.encode_image(picture((60, 130)))
    questions = [
        ask(),
        ask(text="How many circles are there?"),
        ask(
            user(IMAGE, TextPart(text="Why?")),
            Turn(role="assistant", content="So."),
            user(TextPart(text="?")),
        ),
    ]
    prompts = [model.prompt(question, features) for question in questions]
    assert len({prompt.prefix_key for prompt in prompts}) == 1
    assert None not in {prompt.prefix_key for prompt in prompts}
    (tokens,) = {prompt.prefix_tokens for prompt in prompts}
    image_token = model.prompt(ask(), features).token_ids[tokens - 1]
    for prompt in prompts:
        assert np.array_equal(prompt.token_ids[:tokens], prompts[0].token_ids[:tokens])
        assert np.array_equal(prompt.inputs_embeds[:tokens], prompts[0].inputs_embeds[:tokens])
        assert image_token not in prompt.token_ids[tokens:]
        assert np.array_equal(prompt.inputs_embeds[tokens - len(features.packed) : tokens], features.packed)


def test_other_beginnings_are_other_prefixes(model: LlavaModel) -> None:
    image, turned = picture((60, 130)), picture((60, 130), seed=1)
    spoken = (user(TextPart(text="Look: "), IMAGE), Turn(role="system", content="Be brief."))
    prompts = [
        model.prompt(ask(), model.encode_image(image)),
        model.prompt(ask(), model.encode_image(image, "low")),
        model.prompt(ask(), model.encode_image(turned)),
        model.prompt(ask(spoken[0]), model.encode_image(image)),
        model.prompt(ask(spoken[1], user(IMAGE, TextPart(text="What is it?"))), model.encode_image(image)),
    ]
    assert len({prompt.prefix_key for prompt in prompts}) == 5


def test_a_prompt_that_ends_in_its_image_or_has_none_shares_nothing(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "folder")
    (folder / "captionmill.json").unlink()
    parts = (
        "{% for part in messages[0]['content'] %}{{ part['text'] if part['type'] == 'text' else '<image>' }}"
    )
    (folder / "chat_template.jinja").write_text(parts + "{% endfor %}")
    model = LlavaModel.load(folder, "CPU", EXACT)
    features = model.encode_image(picture((60, 130)))
    last = model.prompt(ask(user(TextPart(text="What is this: "), IMAGE)), features)
    assert (last.prefix_key, last.prefix_tokens) == (None, 0)
    assert last.image_tokens == len(features.packed)
    assert model.prompt(ask(), None).prefix_key is None
    assert model.prompt(ask(), features).prefix_key is not None


def test_models_do_not_share(tiny_folder: Path, model: LlavaModel, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "folder")
    manifest = json.loads((folder / "captionmill.json").read_text())
    (folder / "captionmill.json").write_text(json.dumps({**manifest, "model": "another"}))
    another = LlavaModel.load(folder, "CPU", EXACT)
    assert another.encode_image(picture((60, 130))).key != model.encode_image(picture((60, 130))).key


def test_the_vision_model_computes_when_it_may(tiny_folder: Path) -> None:
    device = DeviceScheduler()
    model = LlavaModel.load(tiny_folder, "CPU", EXACT, device=device)
    with ThreadPoolExecutor(1) as thread:
        with device.language_turn(lambda: False):
            encoding = thread.submit(model.encode_image, picture((60, 130)))
            # Prompts are not held up.
            model.prompt(ask(), None)
            with pytest.raises(TimeoutError):
                encoding.result(timeout=0.3)
        assert len(encoding.result().packed) > 0
