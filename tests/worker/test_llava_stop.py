"""Compares stop texts with transformers' stop strings, token by token; knows no model."""

import numpy as np
import pytest
import torch
from transformers.generation.stopping_criteria import StopStringCriteria

from tests.support.checkpoints import CHAT_TEMPLATE, make_tokenizer
from worker.llava.prompt import PromptWriter
from worker.llava.stop import StopTexts

TOKENIZER = make_tokenizer()
WRITER = PromptWriter(TOKENIZER, CHAT_TEMPLATE, 3)
ASCII = [
    token_id
    for token_id in range(len(TOKENIZER))
    if TOKENIZER.decode([token_id]).isprintable() and TOKENIZER.decode([token_id]).isascii()
]


@pytest.mark.parametrize(
    "stop",
    [["re"], ["circle"], ["d c", "q"], [" "], ["a", "b", "c"], ["in the", "the im"], ["</s>"]],
    ids=str,
)
def test_an_answer_ends_at_the_token_where_transformers_ends_it(stop: list[str]) -> None:
    theirs, ours = StopStringCriteria(TOKENIZER, stop), WRITER.stop_texts(stop)
    random = np.random.default_rng(0)
    # Tokens of the texts themselves and their beginnings, among others, so that they do come about.
    likely = [
        token_id for text in stop for token_id in TOKENIZER(text, add_special_tokens=False)["input_ids"]
    ]
    ended = 0
    for _ in range(60):
        chosen = random.choice([*ASCII, *likely * 60], size=24).tolist()
        for length in range(1, len(chosen) + 1):
            expected = bool(theirs(torch.tensor([chosen[:length]]), torch.empty(0))[0])
            assert ours(chosen[:length]) == expected, TOKENIZER.decode(chosen[:length])
            if expected:
                ended += 1
                break
    assert ended > 2


def test_characters_of_several_tokens_are_waited_for() -> None:
    stop = WRITER.stop_texts(["→é"])
    token_ids = TOKENIZER("a→éb", add_special_tokens=False)["input_ids"]
    found = [stop(token_ids[:length]) for length in range(1, len(token_ids) + 1)]
    assert found[:-2] == [False] * (len(token_ids) - 2)
    assert found[-2]


def test_what_is_decoded_stays_short() -> None:
    """Whatever the answer's length, at most one token more is decoded than the longest text has bytes."""
    seen: list[int] = []

    def decode(token_ids: object) -> str:
        assert isinstance(token_ids, list)
        seen.append(len(token_ids))
        return ""

    stop = StopTexts(["ab", "é→"], decode)
    stop([5] * 1000)
    assert seen == [6]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("A red circle. A blue square.", ["."], "A red circle"),
        ("A red circle. A blue square.", ["blue", "red"], "A"),
        ("A red circle.", ["green"], "A red circle."),
        ("red", ["red"], ""),
        ("A red </s> circle", ["</s>"], "A red"),
        ("A red<pad> circle", ["e"], "A r"),
        ("A r<pad>ed circle", ["le"], "A red circ"),
    ],
)
def test_an_answer_is_cut_before_the_first_stop_text(text: str, stop: list[str], expected: str) -> None:
    assert WRITER.decode(TOKENIZER(text)["input_ids"], stop) == expected


@pytest.mark.parametrize(
    "stop", [[], ["re"], ["d c", "q"], [" \n"], ["in the", "the im"], ["</s>a"], ["→é"]], ids=str
)
def test_what_is_told_of_an_answer_so_far_stays(stop: list[str]) -> None:
    """However it goes on, its bytes come one by one, or a stop text begins."""
    random = np.random.default_rng(1)
    likely = [t for text in [*stop, "→é"] for t in TOKENIZER(text, add_special_tokens=False)["input_ids"]]
    told_before_the_end = 0
    for _ in range(60):
        chosen = random.choice([*range(len(TOKENIZER)), *ASCII, *likely * 60], size=24).tolist()
        told = ""
        for length in range(1, len(chosen) + 1):
            so_far = WRITER.decode_so_far(chosen[:length], stop)
            assert so_far.startswith(told)
            told = so_far
            whole = WRITER.decode(chosen[:length], stop)
            assert whole.startswith(told)
            told_before_the_end += told == whole
            if stop and WRITER.stop_texts(stop)(chosen[:length]):
                break
    assert told_before_the_end > 60


def test_only_what_may_become_a_stop_text_is_held_back() -> None:
    stop = StopTexts(["circle", "le."], lambda _: "")
    assert [stop.settled(text) for text in ("A cir", "A circ", "A cart", "le", "a circle", "x le.")] == [
        "A ",
        "A ",
        "A cart",
        "",
        "a ",
        "x ",
    ]
