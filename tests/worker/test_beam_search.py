"""Greedy and beam search equal transformers' generate() on random models: whole sequences and scores."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from contract.failure import FailureCode, Refusal
from tests.support.search_driver import (
    PROMPT,
    VOCABULARY,
    make_request,
    own_log_probs,
    random_model,
    reference,
    walk,
)
from worker.engine.beams import BeamSearch, top_k
from worker.engine.log_probs import log_softmax
from worker.engine.sampling import RowSearch
from worker.engine.search import NextRows, search_for

STOPS = ("k", "lm", "ab", "xyz", "hio", "tu", "e", "rs")
"""None holds the last letter of PROMPT, in which transformers would look for its beginning."""


def draw_options(draw: np.random.Generator) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Random end-of-sequence tokens and options for any deterministic mode."""
    eos_token_ids = tuple(draw.choice(VOCABULARY, size=draw.integers(0, 5), replace=False).tolist())
    max_new_tokens = int(draw.integers(1, 21))
    return eos_token_ids, {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": int(draw.choice(np.array([0, 0, draw.integers(0, max_new_tokens + 1)]))),
        "repetition_penalty": float(draw.choice([1.0, 1.0, 0.8, 1.3, 2.0])),
        "no_repeat_ngram_size": int(draw.choice([0, 0, 1, 2, 3])),
        "stop": tuple(draw.choice(STOPS, size=draw.choice([0, 0, 1, 3]), replace=False).tolist()),
    }


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("num_beams", [2, 3, 4, 8])
def test_beam_search_equals_transformers(num_beams: int, early_stopping: bool | Literal["never"]) -> None:
    draw = np.random.default_rng(num_beams)
    reasons, returned = set(), set()
    for seed in range(6):
        model = random_model(seed)
        for length_penalty in (-1.0, 0.0, 0.5, 1.0, 2.0):
            eos_token_ids, parameters = draw_options(draw)
            parameters |= {
                "num_beams": num_beams,
                "early_stopping": early_stopping,
                "length_penalty": length_penalty,
                "num_return_sequences": int(
                    draw.choice(np.array([1, num_beams, draw.integers(1, num_beams + 1)]))
                ),
            }
            found = walk(make_request(eos_token_ids, **parameters), model).generations
            expected = reference(model, eos_token_ids, **parameters)
            where = f"model {seed}, eos {eos_token_ids}, {parameters}"
            lengths = (expected.beam_indices >= 0).sum(dim=1).tolist()
            tokens = expected.sequences[:, len(PROMPT) :].tolist()
            assert [list(each.token_ids) for each in found] == [
                row[:length] for row, length in zip(tokens, lengths, strict=True)
            ], where
            scores = expected.sequences_scores.tolist()
            assert [each.score for each in found] == pytest.approx(scores, rel=1e-6, abs=2e-5), where
            for each in found:
                own = own_log_probs(model, each.token_ids)
                assert each.mean_log_prob == pytest.approx(own.mean(), abs=1e-5), where
            reasons |= {each.finish_reason for each in found}
            returned.add(len(found))
    assert reasons == {"stop", "length"}, "the models exercise both ends"
    assert returned >= {1, num_beams}


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_greedy_equals_transformers(length_penalty: float) -> None:
    draw = np.random.default_rng(1)
    reasons = set()
    for seed in range(40):
        model = random_model(seed % 8)
        eos_token_ids, parameters = draw_options(draw)
        request = make_request(eos_token_ids, length_penalty=length_penalty, **parameters)
        (found,) = walk(request, model).generations
        expected = reference(model, eos_token_ids, **parameters)
        assert list(found.token_ids) == expected.sequences[0, len(PROMPT) :].tolist(), (seed, parameters)
        own = own_log_probs(model, found.token_ids)
        assert found.mean_log_prob == pytest.approx(own.mean(), abs=1e-5)
        assert found.score == pytest.approx(own.sum() / len(own) ** length_penalty, abs=1e-5)
        reasons.add(found.finish_reason)
    assert reasons == {"stop", "length"}


def test_never_with_a_negative_penalty_estimates_from_the_present_length() -> None:
    """A better end is waited for, though at max_new_tokens its score would be below all finished ones."""
    penalty, end, a, b = -0.1, 0, 1, 2
    request = make_request(
        eos_token_ids=(end,), max_new_tokens=2000, num_beams=2, length_penalty=penalty, early_stopping="never"
    )
    search = BeamSearch(request)
    after_a, even = [0.4667, 1e-6, 0.5333, 1e-6], [0.25] * 4
    search.advance(np.log([[0.25, 0.75, 1e-6, 1e-7]], dtype=np.float32))
    both_finished = search.advance(np.log([after_a, even], dtype=np.float32))
    assert isinstance(both_finished, NextRows)
    found = search.advance(np.log([[1.0, 1e-9, 1e-9, 1e-9], even], dtype=np.float32))
    assert not isinstance(found, NextRows)
    assert found[0].token_ids == (a, b, end)
    assert found[0].score == pytest.approx(np.log(0.4) / 3**penalty, abs=1e-4)


def test_a_single_beam_is_greedy_search() -> None:
    for seed in range(8):
        request = make_request(eos_token_ids=(5, 17, 30), max_new_tokens=16)
        (greedy,) = walk(request, random_model(seed), RowSearch(request)).generations
        (beam,) = walk(request, random_model(seed), BeamSearch(request)).generations
        assert beam.token_ids == greedy.token_ids
        assert beam.score == pytest.approx(greedy.score, abs=1e-6)
        assert beam.mean_log_prob == pytest.approx(greedy.mean_log_prob, abs=1e-6)


def test_more_beams_than_tokens_are_found_step_by_step() -> None:
    """A vocabulary of three has three beams after the first token; the one that ended comes to nothing."""
    search = BeamSearch(make_request((0,), num_beams=4, num_return_sequences=4, max_new_tokens=3))
    logits = np.log([[0.2, 0.5, 0.3]], dtype=np.float32)
    rows = []
    while isinstance(outcome := search.advance(logits), NextRows):
        rows.append(len(outcome.token_ids))
        logits = np.repeat(logits[:1], rows[-1], axis=0)
    assert rows == [3, 4]
    assert outcome[0].token_ids == (1, 1, 1)
    assert {each.token_ids for each in outcome[1:]} == {(1, 1, 2), (1, 2, 1), (2, 1, 1)}


def test_fewer_sequences_than_asked_for_are_refused() -> None:
    """A vocabulary of two has two sequences of one token, and no third."""
    search = BeamSearch(make_request(num_beams=3, num_return_sequences=3, max_new_tokens=1))
    with pytest.raises(Refusal, match="2 of 3"):
        search.advance(np.zeros((1, 2), np.float32))


def test_nothing_comes_of_a_sequence_that_ended() -> None:
    """Two tokens, one of which ends a sequence, allow three sequences of up to two tokens."""
    search = BeamSearch(make_request((0,), num_beams=4, num_return_sequences=4, max_new_tokens=2))
    logits = np.log([[0.4, 0.6]], dtype=np.float32)
    assert isinstance(search.advance(logits), NextRows)
    with pytest.raises(Refusal, match="3 of 4"):
        search.advance(np.repeat(logits, 2, axis=0))


def test_the_search_goes_on_past_ever_so_many_ends() -> None:
    request = make_request((0, 1, 2, 3), num_beams=2, early_stopping="never", length_penalty=4.0)
    step = BeamSearch(request).advance(np.array([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]], np.float32))
    assert isinstance(step, NextRows)
    assert step.token_ids.tolist() == [4, 5]


@pytest.mark.parametrize("asked", [{}, {"num_beams": 2}, {"do_sample": True}])
def test_bans_that_leave_no_token_are_refused(asked: dict[str, Any]) -> None:
    """Every token of a vocabulary of two is in the prompt, and the request bans repeated tokens."""
    request = replace(make_request(no_repeat_ngram_size=1, **asked), token_ids=np.arange(10) % 2)
    with pytest.raises(Refusal, match="no_repeat_ngram_size") as refused:
        search_for(request).advance(np.zeros((1, 2), np.float32))
    assert refused.value.failure.code is FailureCode.INVALID_JOB


def test_an_end_on_the_last_token_counts_as_stop() -> None:
    logits = np.array([[0.0, 1.0, 5.0, 2.0]], np.float32)
    for num_beams in (1, 2):
        ended = search_for(make_request((2,), max_new_tokens=1, num_beams=num_beams)).advance(logits)
        assert not isinstance(ended, NextRows)
        assert (ended[0].token_ids, ended[0].finish_reason) == ((2,), "stop")


def test_top_k_puts_the_lower_index_first_among_equals() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        scores = draw.integers(0, 5, size=draw.integers(1, 60)).astype(np.float32)
        k = int(draw.integers(1, len(scores) + 1))
        by_hand = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:k]
        assert top_k(scores, k).tolist() == by_hand


def test_log_softmax_equals_torch() -> None:
    logits = np.random.default_rng(0).normal(scale=8.0, size=(4, 32064)).astype(np.float32)
    expected = torch.log_softmax(torch.from_numpy(logits), dim=-1).numpy()
    assert log_softmax(logits).dtype == np.float32
    np.testing.assert_allclose(log_softmax(logits), expected, rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("asked", [{}, {"num_beams": 2}, {"do_sample": True}, {"choices": ((0, 1), (2, 1))}])
def test_logits_that_are_not_numbers_are_an_error(broken: float, asked: dict[str, Any]) -> None:
    logits = np.array([[0.0, broken, 1.0]], np.float32)
    with pytest.raises(FloatingPointError):
        search_for(make_request(**asked)).advance(logits)


def test_a_length_penalty_that_hides_every_score_is_refused() -> None:
    request = make_request(max_new_tokens=20, num_beams=2, length_penalty=-12.0)
    with pytest.raises(Refusal, match="length_penalty"):
        walk(request, random_model(0))
