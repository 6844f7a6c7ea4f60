"""The shapes of the bench's random models, as data; knows no torch."""

from dataclasses import dataclass
from typing import Final, Literal

SizeName = Literal["tiny", "mid", "big"]
ShapeName = Literal["llava-v1.6-mistral-7b", "tiny", "mid", "big"]


@dataclass(frozen=True)
class Size:
    """The shape of one checkpoint; widths in numbers of features."""

    tile_px: int
    vision_layers: int
    vision_hidden: int
    vision_heads: int
    text_layers: int
    text_hidden: int
    text_heads: int
    text_kv_heads: int
    text_intermediate: int
    vocabulary: int
    context_tokens: int

    @property
    def pinpoints(self) -> list[list[int]]:
        """LLaVA-NeXT's own grids, (height, width) in pixels."""
        side = self.tile_px
        return [[side, 2 * side], [2 * side, side], [2 * side, 2 * side], [3 * side, side], [side, 3 * side]]


SIZES: Final = {
    "tiny": Size(56, 2, 64, 4, 3, 128, 4, 2, 256, 1024, 1024),
    "mid": Size(336, 24, 1024, 16, 24, 1024, 16, 4, 2816, 32064, 8192),
    "big": Size(336, 24, 1024, 16, 28, 2048, 16, 4, 5632, 32064, 8192),
}
"""`mid` has 0.64 B parameters and `big` 1.7 B, both with the vision tower of the published models."""
SHAPES: Final = SIZES | {
    "llava-v1.6-mistral-7b": Size(336, 24, 1024, 16, 32, 4096, 32, 8, 14336, 32064, 32768)
}
"""SIZES and a published model, for measurements of conversion."""
