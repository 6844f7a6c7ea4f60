"""Choices get the scores of a teacher-forced pass of the torch model, with no more rows than they need."""

import math

import pytest

from tests.support.search_driver import make_request, own_log_probs, random_model, walk
from worker.engine.choices import choice_probabilities

END = 2
CHOICES = (
    (5, 6, 7, END),
    (5, 6, END),
    (5, 8, 7, END),
    (9, END),
    (END,),
    (5, 6, 7, 10, END),
    (9, 11),
    (9, END),
)
"""Beginnings shared, a choice within another, one that is over at once, and two alike."""


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 1.5])
def test_scores_equal_a_teacher_forced_pass(length_penalty: float) -> None:
    for seed in range(4):
        model = random_model(seed)
        request = make_request((END,), choices=CHOICES, length_penalty=length_penalty)
        found = walk(request, model).generations
        assert tuple(each.token_ids for each in found) == CHOICES
        for each in found:
            own = own_log_probs(model, each.token_ids)
            assert each.score == pytest.approx(own.sum() / len(own) ** length_penalty, abs=1e-5)
            assert each.mean_log_prob == pytest.approx(own.mean(), abs=1e-5)
            assert each.finish_reason == "stop"


def test_a_row_is_a_beginning_that_some_choice_goes_beyond() -> None:
    """After the prefill: 5 and 9; then 5 6 and 5 8; then 5 6 7 and 5 8 7; then 5 6 7 10."""
    assert walk(make_request((END,), choices=CHOICES), random_model(0)).rows == [2, 2, 2, 1]


def test_choices_of_one_token_need_no_row() -> None:
    assert walk(make_request((END,), choices=((3,), (4,), (5,))), random_model(0)).rows == []


def test_probabilities_are_the_softmax_of_the_scores() -> None:
    assert choice_probabilities([math.log(3.0), 0.0]) == pytest.approx((0.75, 0.25))
    far = choice_probabilities([-1e5, -2e5, -1e5])
    assert far == (0.5, 0.0, 0.5)
