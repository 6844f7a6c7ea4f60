"""Which requests the engine accepts, and how many rows and positions they take."""

from typing import Any

import numpy as np
import pytest

from contract.failure import FailureCode, Refusal
from contract.job import GenerationParameters
from tests.support.search_driver import PROMPT, make_request
from worker.engine.request import Prefix, Request


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs_embeds": np.zeros(3, np.float32)}, "inputs_embeds"),
        (
            {"inputs_embeds": np.zeros((0, 4), np.float32), "token_ids": np.zeros(0, np.int64)},
            "inputs_embeds",
        ),
        ({"inputs_embeds": np.zeros((3, 4), np.float64)}, "inputs_embeds"),
        ({"token_ids": np.zeros(2, np.int64)}, "token_ids"),
        ({"token_ids": np.zeros((3, 1), np.int64)}, "token_ids"),
        ({"prefix": Prefix(b"key", 0)}, "prefix"),
        ({"prefix": Prefix(b"key", 3)}, "prefix"),
        ({"choices": ((1, 2), ())}, "choice"),
        ({"parameters": GenerationParameters(num_beams=2), "on_tokens": print}, "one row"),
        (
            {"parameters": GenerationParameters(do_sample=True, num_return_sequences=2), "on_tokens": print},
            "one row",
        ),
    ],
)
def test_malformed_requests_raise(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "inputs_embeds": np.zeros((3, 4), np.float32),
        "token_ids": np.zeros(3, np.int64),
        "eos_token_ids": (),
        "prefix": Prefix(b"key", 2),
    }
    Request(**good)
    with pytest.raises(ValueError, match=message):
        Request(**good | changes)


def test_a_length_penalty_beyond_all_numbers_is_refused() -> None:
    make_request(max_new_tokens=20, length_penalty=12.0)
    for length_penalty in (400.0, -400.0):
        with pytest.raises(Refusal) as refused:
            make_request(max_new_tokens=20, length_penalty=length_penalty)
        assert refused.value.failure.code is FailureCode.INVALID_JOB


@pytest.mark.parametrize(
    ("parameters", "rows", "new_tokens"),
    [
        ({}, 1, 128),
        ({"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 7}, 4, 7),
        ({"do_sample": True, "num_return_sequences": 3}, 3, 128),
        ({"choices": ((1, 2), (3, 4, 5)), "num_beams": 4}, 2, 3),
    ],
)
def test_what_a_request_takes(parameters: dict[str, Any], rows: int, new_tokens: int) -> None:
    request = make_request(**parameters)
    assert request.rows == rows
    assert request.max_new_tokens == new_tokens
    assert request.max_tokens == len(PROMPT) + new_tokens
