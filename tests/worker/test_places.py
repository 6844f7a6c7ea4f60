"""Position ids of images with rows and columns: a worker writes them, a model reads them; no weights."""

import numpy as np
import openvino
import pytest
import torch
from torch import Tensor, nn

from contract.model_folder import MOST_PLACES, PLACE_COLUMN, PLACE_ROW
from model_prep.families.qwen2_5_vl import QWEN2_5_VL
from worker.llava.places import places_of

IMAGE = 7


@pytest.mark.parametrize(
    ("token_ids", "grids", "expected"),
    [
        ([1, 2, 3], [], [(0, 0, 0), (1, 0, 0), (2, 0, 0)]),
        (
            [1, *[IMAGE] * 6, 2, 3],
            [(2, 3)],
            [
                (0, 0, 0),
                *((1, row, column) for row in range(2) for column in range(3)),
                *((4, 0, 0), (5, 0, 0)),
            ],
        ),
        (
            [*[IMAGE] * 3, *[IMAGE] * 2, 9],
            [(3, 1), (1, 2)],
            [*((0, row, 0) for row in range(3)), (3, 0, 0), (3, 0, 1), (5, 0, 0)],
        ),
    ],
    ids=["text", "one image", "two side by side"],
)
def test_what_follows_an_image_goes_on_behind_its_longer_side(
    token_ids: list[int], grids: list[tuple[int, int]], expected: list[tuple[int, int, int]]
) -> None:
    found = places_of(np.array(token_ids), IMAGE, grids)
    assert found.tolist() == [
        position + row * PLACE_ROW + column * PLACE_COLUMN for position, row, column in expected
    ]


class Axes(nn.Module):
    def forward(self, position_ids: Tensor) -> Tensor:
        assert QWEN2_5_VL.axes is not None
        return QWEN2_5_VL.axes(position_ids)


def test_a_device_takes_the_largest_positions_apart_exactly() -> None:
    parts = np.array(
        [
            (position, row, column)
            for position in (0, 1, 4097, PLACE_ROW - 1)
            for row in (0, 1, MOST_PLACES - 1)
            for column in (0, 1, 3, MOST_PLACES - 1)
        ]
    )
    packed = (parts @ [1, PLACE_ROW, PLACE_COLUMN])[None]
    assert packed.max() < 2**31
    model = openvino.convert_model(Axes(), example_input=torch.from_numpy(packed))
    (found,) = openvino.Core().compile_model(model, "CPU")([packed]).values()
    position, row, column = parts.T
    assert np.array_equal(found[:, 0], [position, position + row, position + column])
