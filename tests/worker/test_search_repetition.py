"""Which answers count as ending in a loop, and which do not."""

import pytest

from worker.engine.repetition import ends_in_loop

STORY = [*range(100, 160)]


@pytest.mark.parametrize(
    "token_ids",
    [
        [1] * 24,
        [*STORY, *[1] * 30],
        [*STORY, *[1, 2] * 12],
        [*STORY, *[1, 2, 3, 4, 5] * 5],
        [*STORY, *[1, 2, 3, 4, 5] * 5, 1, 2, 3],
        [*STORY, *STORY[:30] * 4],
        STORY * 4,
        [*STORY * 4, *STORY[:7]],
    ],
)
def test_stuck(token_ids: list[int]) -> None:
    assert ends_in_loop(token_ids)


@pytest.mark.parametrize(
    "token_ids",
    [
        [],
        [1],
        [1] * 23,
        STORY,
        [*STORY, *[1] * 23],
        [*STORY, *[1, 2] * 11, 1],
        [*[1, 2] * 40, *STORY],
        [*[1] * 40, 2],
        STORY * 3,
        [*STORY * 3, *STORY[:59]],
        [token for item in range(20) for token in (1, 2, 200 + item)],
    ],
)
def test_honest(token_ids: list[int]) -> None:
    """Short repetitions, repetitions that the answer got out of, and a list whose items differ."""
    assert not ends_in_loop(token_ids)
