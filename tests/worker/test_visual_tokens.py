"""Compares the choice of image tokens with the published formula, and its prompts with transformers."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from contract.job import Question
from tests.worker.test_llava_parity import QUESTIONS, SIZES, TEXT_ONLY, TOLERANCE, Pair, pair, picture
from worker.engine.runner import SequenceInput
from worker.llava.arrays import FloatArray, IntArray
from worker.llava.model import Prompt
from worker.llava.pack import NO_GRID_TOKENS, NO_ROWS, Packed, pack_features
from worker.llava.visual_tokens import diverse_order, kept_tokens

__all__ = ["pair"]

PATCHES, HIDDEN = 16, 24
GRIDS = [(1, 2), (2, 1), (2, 2), (1, 3), (3, 1)]


def greedy_by_determinants(features: FloatArray, count: int) -> list[int]:
    """The formula itself: each step adds the token with which the kernel's determinant is the largest."""
    unit = torch.nn.functional.normalize(torch.from_numpy(features), dim=1).double()
    kernel = (unit @ unit.T).fill_diagonal_(1)
    chosen: list[int] = []
    for _ in range(count):
        rest = [token for token in range(len(features)) if token not in chosen]
        volumes = [torch.logdet(kernel[[*chosen, token]][:, [*chosen, token]]).item() for token in rest]
        chosen.append(rest[int(np.argmax(volumes))])
    return chosen


@pytest.mark.parametrize("seed", range(8))
def test_the_order_is_that_of_the_published_formula(seed: int) -> None:
    random = np.random.default_rng(seed)
    # A few directions and noise: neighbours that are alike, as an image's tokens are.
    kinds, noise = random.normal(size=(6, HIDDEN)), random.normal(size=(30, HIDDEN))
    scaled = (kinds[random.integers(0, 6, 30)] + noise / 4) * random.uniform(0.1, 10, (30, 1))
    features = scaled.astype(np.float32)
    assert diverse_order(features, 12).tolist() == greedy_by_determinants(features, 12)


def test_equal_tokens_do_not_end_the_choice() -> None:
    features = np.ones((5, HIDDEN), np.float32)
    features[3] = 0  # has no direction
    assert sorted(diverse_order(features, 5).tolist()) == [0, 1, 2, 3, 4]


def packed_anyres(grid: tuple[int, int], size: tuple[int, int], seed: int = 0) -> Packed:
    random = np.random.default_rng(seed)
    features = random.normal(size=(1 + grid[0] * grid[1], PATCHES, HIDDEN)).astype(np.float32)
    return pack_features(features, grid, size, random.normal(size=HIDDEN).astype(np.float32))


@pytest.mark.parametrize("grid", [(0, 0), *GRIDS])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_every_number_is_kept_to_and_newlines_stay_with_their_rows(
    grid: tuple[int, int], size: tuple[int, int]
) -> None:
    packed = packed_anyres(grid, size)
    tokens = len(packed.features)
    newlines = packed.rows[:, 1]
    for most in range(2, tokens):
        kept = kept_tokens(packed, most)
        assert 0 < kept.sum() <= most
        # A token that fits with its row's newline is never left out for nothing.
        assert kept.sum() >= min(most, PATCHES) - 2
        for begin, newline in packed.rows:
            assert kept[newline] == kept[begin:newline].any()
        if grid != (0, 0):
            in_base = kept[:PATCHES].sum()
            in_grid = sum(newline - begin for begin, newline in packed.rows)
            assert in_base <= max(-(-most // 2), most - in_grid - len(newlines) * (in_grid > 0))
        assert not kept[newlines].all() or kept.sum() > len(newlines)
    for most in (tokens, tokens + 1, 10**9):
        assert kept_tokens(packed, most).all()


def test_without_rows_exactly_as_many_are_kept() -> None:
    features = np.random.default_rng(0).normal(size=(40, HIDDEN)).astype(np.float32)
    for most, grid in itertools.product(range(2, 41), (NO_GRID_TOKENS, slice(0, 32))):
        assert kept_tokens(Packed(features, NO_ROWS, grid), most).sum() == most


def prompt_of(pair: Pair, question: Question, image: Image.Image, visual_tokens: int | None) -> Prompt:
    return pair.model.prompt(question, pair.model.encode_image(image, visual_tokens=visual_tokens))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_as_many_as_there_are_change_no_bit(pair: Pair, size: tuple[int, int], question: Question) -> None:
    image = picture(size)
    whole = prompt_of(pair, question, image, None)
    for visual_tokens in (whole.image_tokens, whole.image_tokens + 1, 10**6):
        found = prompt_of(pair, question, image, visual_tokens)
        assert found.inputs_embeds.tobytes() == whole.inputs_embeds.tobytes()
        assert found.token_ids.tolist() == whole.token_ids.tolist()
        assert (found.prefix_key, found.positions) == (whole.prefix_key, None)
    fewer = prompt_of(pair, question, image, whole.image_tokens - 1)
    assert len(fewer.token_ids) < len(whole.token_ids)
    assert fewer.prefix_key is None or fewer.prefix_key != whole.prefix_key


def kept_places(whole: Prompt, fewer: Prompt) -> IntArray:
    """Where the tokens of `fewer` are among those of `whole`: its position ids, if they are right."""
    assert fewer.positions is not None
    assert np.array_equal(whole.token_ids[fewer.positions], fewer.token_ids)
    assert np.array_equal(whole.inputs_embeds[fewer.positions], fewer.inputs_embeds)
    assert (np.diff(fewer.positions) > 0).all()
    assert fewer.positions[-1] == len(whole.token_ids) - 1
    return fewer.positions


@pytest.mark.parametrize("share", [0.12, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_logits_equal_transformers_on_the_tokens_kept(
    pair: Pair, size: tuple[int, int], share: float
) -> None:
    image, question = picture(size), QUESTIONS["plain"]
    whole = prompt_of(pair, question, image, None)
    fewer = prompt_of(pair, question, image, max(2, int(share * whole.image_tokens)))
    places = kept_places(whole, fewer)
    dropped = len(whole.token_ids) - len(fewer.token_ids)
    assert dropped > 0
    assert fewer.image_tokens == whole.image_tokens - dropped
    with torch.no_grad():
        expected = pair.reference(
            inputs_embeds=torch.from_numpy(fewer.inputs_embeds)[None],
            position_ids=torch.from_numpy(places)[None],
        ).logits[0, -1]
    sequence = pair.runner.begin(len(fewer.token_ids))
    (found,) = pair.runner.step([SequenceInput(sequence, fewer.inputs_embeds, fewer.positions)])
    pair.runner.release(sequence)
    assert np.abs(found - expected.numpy()).max() <= TOLERANCE


def test_questions_about_an_image_keep_the_same_tokens(pair: Pair) -> None:
    features = pair.model.encode_image(picture((112, 112)), visual_tokens=20)
    first = pair.model.prompt(QUESTIONS["plain"], features)
    second = pair.model.prompt(Question(id="other", messages="What else is there?"), features)
    assert first.prefix_key == second.prefix_key is not None
    assert first.prefix_tokens == second.prefix_tokens
    assert np.array_equal(
        first.inputs_embeds[: first.prefix_tokens], second.inputs_embeds[: first.prefix_tokens]
    )


def test_where_nothing_follows_the_image_positions_stay(pair: Pair) -> None:
    """As with a template that ends in the image."""
    writer = pair.model._writer
    whole_ids = writer.token_ids(QUESTIONS["plain"], with_image=True)
    last = int(np.flatnonzero(whole_ids == pair.model._folder.image_token_id)[-1])
    features = pair.model.encode_image(picture((112, 112)), visual_tokens=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "token_ids", lambda *_, **__: whole_ids[: last + 1])
        prompt = pair.model.prompt(QUESTIONS["plain"], features)
    assert prompt.prefix_key is None
    assert prompt.positions is not None
    assert prompt.positions[-1] > len(prompt.token_ids)


def test_several_images_keep_as_many_each(pair: Pair) -> None:
    images = [picture((112, 112)), picture((40, 150))]
    several = [pair.model.encode_image(image, visual_tokens=20) for image in images]
    whole = pair.model.prompt(
        QUESTIONS["plain"], pair.model.joined([pair.model.encode_image(i) for i in images])
    )
    fewer = pair.model.prompt(QUESTIONS["plain"], pair.model.joined(several))
    kept_places(whole, fewer)
    assert fewer.image_tokens == sum(len(one.packed) for one in several) <= 40
    # One image of two may keep all of its tokens.
    mixed = pair.model.joined([several[0], pair.model.encode_image(images[1])])
    kept_places(whole, pair.model.prompt(QUESTIONS["plain"], mixed))


def test_a_question_without_an_image_keeps_its_prompt(pair: Pair) -> None:
    features = pair.model.encode_image(picture((112, 112)), visual_tokens=20)
    assert pair.model.prompt(TEXT_ONLY, features).positions is None
