"""Recognises an answer that repeats itself to its end; knows token ids only."""

from collections.abc import Sequence
from typing import Final

FEWEST_ROUNDS: Final = 4
FEWEST_TOKENS: Final = 24
"""Fewest rounds and fewest tokens of a loop. A list or a row of dashes seldom repeats itself so long."""


def ends_in_loop(token_ids: Sequence[int]) -> bool:
    """Whether an answer, without its end-of-sequence token, ends in one n-gram repeated.

    It does if, for some n, its last 24 tokens and its last 4 n tokens are such rounds. The last round may be
    incomplete, as max_new_tokens cuts anywhere.
    """
    return any(_ends_in_rounds(token_ids, n) for n in range(1, len(token_ids) // FEWEST_ROUNDS + 1))


def _ends_in_rounds(token_ids: Sequence[int], n: int) -> bool:
    start = len(token_ids) - max(FEWEST_TOKENS, FEWEST_ROUNDS * n)
    places = range(len(token_ids) - 1, start + n - 1, -1)
    return start >= 0 and all(token_ids[place] == token_ids[place - n] for place in places)
