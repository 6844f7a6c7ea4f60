"""Sampling follows transformers' distributions, and the seed alone decides what is sampled."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from contract.job import GenerationParameters
from tests.support.search_driver import (
    PROMPT,
    VOCABULARY,
    make_request,
    own_log_probs,
    random_model,
    reference,
    walk,
)
from worker.engine.processors import Processors
from worker.engine.request import FloatArray
from worker.engine.sample_token import sample_token, warp
from worker.engine.search import NextRows, search_for

WARPERS: list[dict[str, Any]] = [
    {},
    {"top_k": 0},
    {"top_k": 5},
    {"top_k": 1},
    {"top_k": 0, "top_p": 0.6},
    {"top_k": 0, "top_p": 1e-6},
    {"top_k": 0, "min_p": 0.1},
    {"top_k": 0, "min_p": 1.0},
    {"temperature": 0.5},
    {"temperature": 3.0, "top_k": 20, "top_p": 0.8, "min_p": 0.2},
    {"temperature": 0.7, "top_k": 8, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.5},
]


def distribution(scores: FloatArray, parameters: GenerationParameters) -> FloatArray:
    """scores (vocabulary,) → the probability of each token to be drawn."""
    token_ids, weights = warp(scores, parameters)
    assert (np.diff(token_ids) > 0).all()
    probabilities = np.zeros(len(scores), np.float32)
    probabilities[token_ids] = weights / weights.sum()
    return probabilities


def transformers_distributions(seed: int, **parameters: Any) -> tuple[list[int], FloatArray]:
    """Tokens that generate() drew on one model, and (token, vocabulary) the probabilities it drew them by."""
    drawn = reference(random_model(seed), (), do_sample=True, max_new_tokens=6, **parameters)
    probabilities: FloatArray = torch.softmax(torch.cat(drawn.scores), dim=-1).numpy()
    return drawn.sequences[0, len(PROMPT) :].tolist(), probabilities


@pytest.mark.parametrize("parameters", WARPERS)
def test_distributions_equal_transformers(parameters: dict[str, Any]) -> None:
    for seed in range(8):
        request = make_request(do_sample=True, max_new_tokens=6, **parameters)
        tokens, expected = transformers_distributions(seed, **parameters)
        with torch.no_grad():
            whole = torch.tensor([[*PROMPT.tolist(), *tokens]])
            logits = random_model(seed)(whole).logits[0, len(PROMPT) - 1 : -1].numpy()
        for step in range(6):
            scores = Processors(request).process(logits[step][None], np.array([tokens[:step]], np.int64))[0]
            found = distribution(scores, request.parameters)
            assert ((found > 0) == (expected[step] > 0)).all(), (seed, step)
            np.testing.assert_allclose(found, expected[step], atol=2e-6)


def test_of_equal_scores_top_k_keeps_all_and_top_p_the_lower_ids() -> None:
    scores = np.array([1.0, 3.0, 1.0, 3.0, 3.0, 0.0], np.float32)
    assert warp(scores, GenerationParameters(do_sample=True, top_k=2))[0].tolist() == [1, 3, 4]
    assert warp(scores, GenerationParameters(do_sample=True, top_k=0, top_p=0.5))[0].tolist() == [1, 3]


def test_a_draw_is_as_probable_as_its_token() -> None:
    """The edges between tokens lie at the cumulated probabilities; what has none is never drawn."""
    with np.errstate(divide="ignore"):
        scores = np.log(np.array([0.0, 0.5, 0.0, 0.25, 0.25, 0.0], np.float32))
    asked = GenerationParameters(do_sample=True, top_k=0)
    uniforms = [0.0, 0.499, 0.501, 0.749, 0.751, 1 - 2**-53]
    assert [sample_token(scores, asked, uniform) for uniform in uniforms] == [1, 1, 3, 3, 4, 4]


def test_sequences_come_as_often_as_they_are_probable() -> None:
    """Chi-squared of all sequences of two tokens over rows and seeds, which are independent of each other."""
    model, rows, seeds, kept = random_model(0), 64, 100, 4
    parameters: dict[str, Any] = {"do_sample": True, "max_new_tokens": 2, "top_k": kept, "temperature": 3.0}
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(seeds):
        request = make_request(num_return_sequences=rows, seed=seed, **parameters)
        counts.update(each.token_ids for each in walk(request, model).generations)
    chi_squared, outcomes = 0.0, 0
    asked = GenerationParameters(**parameters)
    with torch.no_grad():
        first = distribution(model(torch.from_numpy(PROMPT[None])).logits[0, -1].numpy(), asked)
        for a in np.flatnonzero(first):
            whole = torch.tensor([[*PROMPT.tolist(), int(a)]])
            second = distribution(model(whole).logits[0, -1].numpy(), asked)
            for b in np.flatnonzero(second):
                expected = float(first[a] * second[b]) * rows * seeds
                assert expected > 5.0
                chi_squared += (counts.pop((int(a), int(b)), 0) - expected) ** 2 / expected
                outcomes += 1
    assert not counts, "nothing else is drawn"
    assert outcomes == kept**2
    # Of 15 degrees of freedom; above 44.3 once in 10,000 times.
    assert 2.0 < chi_squared < 44.3


def test_a_row_follows_from_seed_and_number_alone() -> None:
    parameters: dict[str, Any] = {"do_sample": True, "max_new_tokens": 12, "top_k": 0, "temperature": 2.0}
    model, ends = random_model(1), (5, 17, 30, 2)
    many = walk(make_request(ends, num_return_sequences=8, seed=3, **parameters), model)
    few = walk(make_request(ends, num_return_sequences=3, seed=3, **parameters), model)
    assert [each.token_ids for each in few.generations] == [each.token_ids for each in many.generations[:3]]
    assert len({each.token_ids for each in many.generations}) == 8, "rows differ"
    other = walk(make_request(ends, num_return_sequences=8, seed=4, **parameters), model)
    assert not {each.token_ids for each in other.generations} & {each.token_ids for each in many.generations}


def test_rows_end_one_by_one_and_keep_their_scores() -> None:
    model, ends = random_model(2), (5, 17, 30, 2, 8, 9, 40)
    request = make_request(
        ends, do_sample=True, num_return_sequences=8, max_new_tokens=9, temperature=2.0, length_penalty=0.5
    )
    walked = walk(request, model)
    assert [each.finish_reason for each in walked.generations].count("stop") >= 3
    assert walked.rows == sorted(walked.rows, reverse=True)
    lengths = [len(each.token_ids) for each in walked.generations]
    assert walked.rows == [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    for each in walked.generations:
        own = own_log_probs(model, each.token_ids)
        assert each.mean_log_prob == pytest.approx(own.mean(), abs=1e-5)
        assert each.score == pytest.approx(own.sum() / len(own) ** 0.5, abs=1e-5)
        assert (each.token_ids[-1] in ends) == (each.finish_reason == "stop")


def test_the_smallest_temperature_is_greedy() -> None:
    logits = np.random.default_rng(0).normal(scale=9.0, size=(1, VOCABULARY)).astype(np.float32)
    request = make_request(do_sample=True, temperature=1e-6, max_new_tokens=1, num_return_sequences=64)
    found = search_for(request).advance(logits)
    assert not isinstance(found, NextRows)
    assert {each.token_ids for each in found} == {(int(logits.argmax()),)}
