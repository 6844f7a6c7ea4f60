"""How the features of a model's images are packed; knows no weights.

A converted folder names its packing in its manifest. Others, as optimum-intel exports them, go by model_type.
"""

import re
from typing import Any, Final

from transformers import PretrainedConfig

from contract.model_folder import Packing

PACKINGS: Final[dict[str, Packing]] = {
    "llava": "view",
    "vipllava": "view",
    "llava_next": "anyres",
    "llava_next_video": "anyres",
    "llava_onevision": "anyres_max",
}
ROW_TOWERS: Final = ("pixtral",)
"""Vision towers that read images of any size, row by row."""
ASPECT_RATIO: Final = re.compile(r"anyres_max_([1-9]\d*)")


def packing_by_type(raw: dict[str, Any]) -> Packing | None:
    """The packing that a config without manifest means; None for a model that this worker does not run."""
    packing = PACKINGS.get(str(raw.get("model_type")))
    vision = raw.get("vision_config")
    if packing == "view" and isinstance(vision, dict) and vision.get("model_type") in ROW_TOWERS:
        return "rows"
    return packing


def most_plane_tiles(config: PretrainedConfig, packing: Packing) -> int | None:
    """Number of tiles to whose features the grid's are shrunk; None where they never are.

    Raises ValueError if vision_aspect_ratio does not give it.
    """
    if packing != "anyres_max":
        return None
    found = ASPECT_RATIO.fullmatch(config.vision_aspect_ratio)
    if found is None:
        raise ValueError(f"vision_aspect_ratio {config.vision_aspect_ratio!r} is not anyres_max_N")
    return int(found[1])
