"""Gives the nameless nodes of a graph the same names in every run; knows no arithmetic."""

import re
from typing import Final

from openvino import Model

MODEL_NAME: Final = "captionmill"


def name_by_place(model: Model) -> None:
    """Change `model` in place: nodes with a made-up name, such as Convert_123, are numbered in graph order.

    OpenVINO makes names up from a counter of the process, so that one graph would be saved as other bytes
    where another graph had been made before.
    """
    model.set_friendly_name(MODEL_NAME)
    for place, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}_{place}")
