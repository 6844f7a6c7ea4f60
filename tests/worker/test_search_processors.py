"""The processors equal transformers' LogitsProcessors on random scores and token ids."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from tests.support.search_driver import make_request
from worker.engine.processors import Processors
from worker.engine.request import FloatArray, IntArray

VOCABULARY = 12
EOS_TOKEN_IDS = (2, 7)


def expected(scores: FloatArray, prompt: IntArray, new: IntArray, parameters: dict[str, Any]) -> FloatArray:
    processors = LogitsProcessorList()
    if parameters.get("repetition_penalty"):
        processors.append(RepetitionPenaltyLogitsProcessor(parameters["repetition_penalty"]))
    if parameters.get("no_repeat_ngram_size"):
        processors.append(NoRepeatNGramLogitsProcessor(parameters["no_repeat_ngram_size"]))
    if parameters.get("min_new_tokens"):
        processors.append(
            MinNewTokensLengthLogitsProcessor(len(prompt), parameters["min_new_tokens"], list(EOS_TOKEN_IDS))
        )
    whole = np.concatenate([np.repeat(prompt[None], len(new), axis=0), new], axis=1)
    changed: FloatArray = processors(torch.from_numpy(whole), torch.from_numpy(scores.copy())).numpy()
    return changed


@pytest.mark.parametrize(
    "parameters",
    [
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.7},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3},
        {"no_repeat_ngram_size": 30},
        {"min_new_tokens": 4},
        {"repetition_penalty": 2.5, "no_repeat_ngram_size": 2, "min_new_tokens": 2},
    ],
)
def test_equals_transformers(parameters: dict[str, Any]) -> None:
    """Also for a prompt with tokens that the model cannot generate, such as LLaVA's image token may be."""
    draw = np.random.default_rng(0)
    changed_any = False
    for length in range(7):
        prompt = draw.integers(0, VOCABULARY + 3, size=draw.integers(1, 24))
        new = draw.integers(0, VOCABULARY, size=(3, length))
        scores = draw.normal(size=(3, VOCABULARY)).astype(np.float32)
        request = make_request(EOS_TOKEN_IDS, **parameters)
        embeds = np.zeros((len(prompt), 1), np.float32)
        processors = Processors(replace(request, token_ids=prompt, inputs_embeds=embeds))
        given = scores.copy()
        assert processors.active
        found = processors.process(scores, new)
        np.testing.assert_array_equal(scores, given)
        np.testing.assert_allclose(found, expected(scores, prompt, new, parameters), rtol=1e-6)
        changed_any |= bool((found != given).any())
    assert changed_any or parameters == {"no_repeat_ngram_size": 30}


def test_nothing_is_processed_unasked() -> None:
    assert not Processors(make_request(EOS_TOKEN_IDS)).active
    assert not Processors(make_request((), min_new_tokens=3)).active, "no token would be banned"
