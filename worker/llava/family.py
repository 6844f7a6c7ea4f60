"""The families of models that a worker runs, and in what they differ; knows no file and no image."""

import re
from dataclasses import dataclass
from typing import Final

from transformers import LlavaConfig, LlavaNextConfig, LlavaOnevisionConfig, PretrainedConfig

ASPECT_RATIO: Final = re.compile(r"anyres_max_([1-9]\d*)")


@dataclass(frozen=True)
class Family:
    """How the checkpoints of one model_type see an image."""

    config: type[PretrainedConfig]
    anyres: bool
    """as a base tile and a grid of tiles, with an image newline after each row; else in one view, without"""


FAMILIES: Final = {
    family.config.model_type: family
    for family in (
        Family(LlavaConfig, anyres=False),
        Family(LlavaNextConfig, anyres=True),
        Family(LlavaOnevisionConfig, anyres=True),
    )
}


def most_plane_tiles(config: PretrainedConfig) -> int | None:
    """What the grid's features are shrunk to: those of so many tiles; None where they never are.

    Raises ValueError if vision_aspect_ratio, in which LLaVA-OneVision says it, does not.
    """
    if not hasattr(FAMILIES[config.model_type].config, "vision_aspect_ratio"):
        return None
    found = ASPECT_RATIO.fullmatch(config.vision_aspect_ratio)
    if found is None:
        raise ValueError(f"vision_aspect_ratio {config.vision_aspect_ratio!r} is not anyres_max_N")
    return int(found[1])
