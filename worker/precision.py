"""Names the settings that change a model's answers, in the model's id; knows no model and no device."""

from collections.abc import Mapping
from typing import Final, Literal

DECISIVE: Final = frozenset(
    {
        "INFERENCE_PRECISION_HINT",
        "EXECUTION_MODE_HINT",
        "KV_CACHE_PRECISION",
        "KEY_CACHE_PRECISION",
        "VALUE_CACHE_PRECISION",
        "KEY_CACHE_GROUP_SIZE",
        "VALUE_CACHE_GROUP_SIZE",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE",
        "ACTIVATIONS_SCALE_FACTOR",
    }
)
"""OpenVINO properties that change answers and not only their speed."""


def computed_as(
    folder_id: str, properties: Mapping[str, str], attention: Literal["stateful", "paged"]
) -> str:
    """The model id in answers: the folder's id, then + and each setting that changes answers."""
    changes = [f"{name}={value}" for name, value in sorted(properties.items()) if name in DECISIVE]
    if attention != "stateful":
        changes.append(f"attention={attention}")
    return "+".join([folder_id, *changes])
