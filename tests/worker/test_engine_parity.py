"""Whole answers equal transformers' in f32, in every grid shape and search: alone, batched, sharing."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import DEMO_MODEL
from tests.support.parity import (
    SEARCHES,
    Ask,
    Found,
    Material,
    Setting,
    alone,
    among_strangers,
    joining_late,
    sharing_prefixes,
)
from tests.support.reference import Expected
from tests.support.runners import KV_CACHE_BYTES, RUNNERS
from worker.engine.admission import Limits
from worker.engine.loop import Engine

SCORE_ATOL = 1e-3
LIMITS = Limits(kv_bytes=KV_CACHE_BYTES, rows=16, step_tokens=1024)
IMAGES = {"tiny": 105, "other": 36, "demo": 12}
SOAK_IMAGES = {"tiny": 210, "other": 105, "demo": 60}
RUNS: list[tuple[str, Setting]] = [
    ("stateful", alone),
    ("stateful", among_strangers),
    ("stateful", sharing_prefixes),
    ("stateful", joining_late),
    ("stateful, merging", among_strangers),
    ("stateful, merging", joining_late),
    ("paged", alone),
    ("paged", among_strangers),
    ("paged", sharing_prefixes),
    ("paged", joining_late),
]


def name_of(checkpoint: Path) -> str:
    return "demo" if DEMO_MODEL in checkpoint.parents else checkpoint.parent.name.rstrip("0123456789")


def make_material(checkpoint_and_folder: tuple[Path, Path], images: Mapping[str, int]) -> Material:
    name = name_of(checkpoint_and_folder[0])
    return Material(*checkpoint_and_folder, images[name], of_scenes=name == "demo")


@pytest.fixture(scope="module")
def material(checkpoint_and_folder: tuple[Path, Path]) -> Material:
    return make_material(checkpoint_and_folder, IMAGES)


@pytest.fixture
def engine(request: pytest.FixtureRequest, material: Material) -> Iterator[Engine]:
    runner = RUNNERS[request.param](material.model.language_xml)
    engine = Engine(runner, material.model.embed, LIMITS)
    yield engine
    engine.close()


def differences(found: Found, expected: Mapping[Ask, tuple[Expected, ...]]) -> list[str]:
    """For a person: each answer that is not as expected."""
    complaints = []
    for ask, sequences in found.items():
        for got, wanted in zip(sequences, expected[ask], strict=True):
            same = got.token_ids == wanted.token_ids and got.finish_reason == wanted.finish_reason
            scores = np.array([got.score - wanted.score, got.mean_log_prob - wanted.mean_log_prob])
            if not same or np.abs(scores).max() > SCORE_ATOL:
                complaints.append(f"{ask}: {got} is not {wanted}")
    return complaints


def test_the_material_is_what_it_should_be(material: Material) -> None:
    """Guards the tests below: a model that looked at nothing would equal itself."""
    grids = {material.reference.grid_of(image.height, image.width) for image in material.images}
    assert grids == set(material.reference.grids)
    assert {ask.search for ask in material.asks} == set(SEARCHES)
    answers = {ask: sequences[0] for ask, sequences in material.expected.items()}
    assert len({answer.token_ids for answer in answers.values()}) > 0.5 * len(answers)
    assert {answer.finish_reason for answer in answers.values()} == {"stop", "length"}
    if len(material.images) >= 100:
        met = {
            (material.reference.grid_of(image.height, image.width), ask.search)
            for ask in material.asks
            for image in [material.images[ask.image]]
        }
        assert len(met) == len(grids) * len(SEARCHES)


@pytest.mark.parametrize(
    ("engine", "setting"), RUNS, indirect=["engine"], ids=[f"{runner}-{s.__name__}" for runner, s in RUNS]
)
def test_answers_equal(setting: Setting, engine: Engine, material: Material) -> None:
    assert differences(setting(engine, material, material.asks), material.expected) == []


@pytest.mark.parametrize("engine", RUNNERS, indirect=True)
def test_questions_about_an_image_go_through_it_once(engine: Engine, material: Material) -> None:
    asks = [Ask(0, 1, search) for search in ("greedy", "greedy, penalty", "greedy, late end")]
    found = joining_late(engine, material, asks)
    requests = [material.request(ask, shares=True) for ask in asks]
    prefix = requests[0].prefix
    assert prefix is not None
    suffixes = sum(len(request.inputs_embeds) - prefix.tokens for request in requests)
    new = sum(len(generations[0].token_ids) - 1 for generations in found.values())
    assert engine.times.positions == prefix.tokens + suffixes + new


@pytest.mark.soak
def test_every_image_in_every_search(checkpoint_and_folder: tuple[Path, Path]) -> None:
    material = make_material(checkpoint_and_folder, SOAK_IMAGES)
    expected = {ask: material.expect(ask) for ask in material.every_ask}
    complaints: list[str] = []
    for name, runner in RUNNERS.items():
        engine = Engine(runner(material.model.language_xml), material.model.embed, LIMITS)
        for setting in (alone, among_strangers, sharing_prefixes, joining_late):
            found = setting(engine, material, material.every_ask)
            complaints += [f"{name}, {setting.__name__}: {d}" for d in differences(found, expected)]
            print(f"{name}, {setting.__name__}: {len(found)} requests, {len(complaints)} differences so far")
        engine.close()
    assert complaints == []
