"""Gives unnamed nodes of a graph the same names in every process; knows no arithmetic."""

import re
from typing import Final

from openvino import Model

MODEL_NAME: Final = "captionmill"


def name_by_place(model: Model) -> None:
    """Number nodes with a generated name, such as Convert_123, in graph order; changes `model` in place.

    OpenVINO numbers them by a counter of the process, so the same graph could be saved as different bytes.
    """
    model.set_friendly_name(MODEL_NAME)
    for place, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}_{place}")
