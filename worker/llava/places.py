"""Numbers the positions of a prompt whose images have rows and columns; knows no features."""

from collections.abc import Sequence

import numpy as np

from contract.model_folder import PLACE_COLUMN, PLACE_ROW
from worker.llava.arrays import IntArray


def places_of(token_ids: IntArray, image_token_id: int, grids: Sequence[tuple[int, int]]) -> IntArray:
    """token_ids (position,), height x width image tokens for each image → position ids (position,) int64.

    They are packed as contract.model_folder says. An image's tokens have the position where it begins, and
    their row and column. What follows counts on from behind the image's longer side.
    """
    images = np.flatnonzero(token_ids == image_token_id)
    positions = np.zeros(len(token_ids), dtype=np.int64)
    done = counted = 0
    for height, width in grids:
        begins = int(images[0])
        images = images[height * width :]
        positions[done:begins] = np.arange(counted, counted + begins - done)
        counted += begins - done
        rows, columns = np.indices((height, width)).reshape(2, -1)
        done = begins + height * width
        positions[begins:done] = counted + rows * PLACE_ROW + columns * PLACE_COLUMN
        counted += max(height, width)
    positions[done:] = np.arange(counted, counted + len(token_ids) - done)
    return positions
