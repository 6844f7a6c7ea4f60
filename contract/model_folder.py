"""The model folder: file and port names shared by whoever writes one and whoever runs one.

Names are those that optimum-intel, OpenVINO GenAI and OpenVINO Model Server look for.
"""

from typing import Any, Final, Literal

from pydantic import Field

from contract.base import Contract

VISION_XML: Final = "openvino_vision_embeddings_model.xml"
"""pixel_values (tile, channel, height, width) → image features (tile, patch, hidden), projected."""
TEXT_XML: Final = "openvino_text_embeddings_model.xml"
"""input_ids (row, position) → inputs_embeds (row, position, hidden)."""
LANGUAGE_XML: Final = "openvino_language_model.xml"
"""attention_mask (row, past + position), position_ids (row, position), inputs_embeds (row, position, hidden),
beam_idx (row) → logits (row, 1, vocabulary) of the last position; keys and values are kept in its state."""
MANIFEST_JSON: Final = "captionmill.json"
CONFIG_JSON: Final = "config.json"
"""The checkpoint's config; image_newline, where the family has one, is a list of `hidden` numbers in it."""

PIXEL_VALUES: Final = "pixel_values"
INPUT_IDS: Final = "input"
INPUTS_EMBEDS: Final = "inputs_embeds"
ATTENTION_MASK: Final = "attention_mask"
POSITION_IDS: Final = "position_ids"
BEAM_IDX: Final = "beam_idx"
LOGITS: Final = "logits"

Packing = Literal["view", "anyres", "anyres_max", "rows", "tiles", "grid"]
"""How an image's features become its run of tokens: one view; a base tile and a grid with an image newline
after each row; the same with the grid shrunk to vision_aspect_ratio's tiles; rows of patches of an image
of any size, with a break token after each and an end token after the last; the tiles of a grid row by row,
then the base tile, with the manifest's marks between them; or the merged patches of an image of any size, row
by row, whose positions have a row and a column."""

PLACE_ROW: Final = 2**15
PLACE_COLUMN: Final = 2**23
"""With the packing "grid", position_ids hold three numbers each: position + row x PLACE_ROW + column x
PLACE_COLUMN. A text's tokens have row and column 0, so that plain positions are such; an image's all have the
position where it begins, and what follows goes on behind its longer side."""
MOST_PLACES: Final = PLACE_COLUMN // PLACE_ROW
"""Rows or columns of an image. All three fit into 31 bits, in which devices compute."""

WeightFormat = Literal["fp32", "fp16", "int8", "int4"]
VisionFormat = Literal["fp32", "fp16", "int8"]


class TileMarks(Contract):
    """The texts that stand between the tiles of an image, in the packing "tiles"."""

    begin: str = Field(default="", description="before everything")
    tile: str = Field(default="", description="before each tile of the grid; {row} and {column} count from 1")
    row_end: str = Field(default="", description="after each row of the grid")
    grid_end: str = Field(default="", description="after the grid")
    base: str = Field(default="", description="before the base tile")
    end: str = Field(default="", description="after everything")

    def text(self, grid: tuple[int, int], image_token: str) -> str:
        """An image of `grid` (height, width) in tiles, one image token for each tile; (0, 0) is no grid."""
        height, width = grid
        rows = (
            "".join(self._tile(row, column) + image_token for column in range(1, width + 1)) + self.row_end
            for row in range(1, height + 1)
        )
        tiles = "".join(rows) + (self.grid_end if height else "")
        return f"{self.begin}{tiles}{self.base}{image_token}{self.end}"

    def _tile(self, row: int, column: int) -> str:
        return self.tile.replace("{row}", str(row)).replace("{column}", str(column))


class FolderFile(Contract):
    """One file of a model folder."""

    size_bytes: int = Field(ge=0)
    sha256: str


class FolderManifest(Contract):
    """What a published model folder says of itself, in captionmill.json."""

    version: Literal[2] = 2
    model: str = Field(
        min_length=1, description="model id: the source's name, weight format and content digest"
    )
    source: str = Field(description="hub id or name of the checkpoint it was made from")
    revision: str | None = Field(description="its commit on the hub")
    packing: Packing | None = Field(
        default=None,
        description="of an image's features; in folders made before it was recorded, by model_type",
    )
    marks: TileMarks | None = Field(default=None, description="with the packing tiles")
    weight_format: WeightFormat
    vision_format: VisionFormat
    settings: dict[str, object] = Field(description="everything the conversion was asked for")
    properties: dict[str, str] = Field(
        default_factory=dict, description="OpenVINO properties for it, unless a worker is told otherwise"
    )
    made_with: dict[str, str] = Field(description="package → version")
    files: dict[str, FolderFile] = Field(
        description="file name → size and hash, the manifest itself excepted"
    )

    @property
    def size_bytes(self) -> int:
        """Of all files, the manifest excepted."""
        return sum(file.size_bytes for file in self.files.values())


def side_px(vision_config: Any, field: Literal["image_size", "patch_size"]) -> int:
    """The side of the squares that a vision tower reads, which its config has as a number or as both sides.

    Raises ValueError if there is no such square.
    """
    value = getattr(vision_config, field, None)
    sides = set(value) if isinstance(value, list | tuple) else {value}
    side = sides.pop() if len(sides) == 1 else None
    if not isinstance(side, int) or side <= 0:
        raise ValueError(f"{field} is {value!r}.")
    return side


def context_tokens(text_config: Any) -> int:
    """So many tokens see each other: the context, or a sliding window that is narrower and in use.

    `text_config` is a language model's config as transformers has it.
    """
    context: int = text_config.max_position_embeddings
    window = getattr(text_config, "sliding_window", None)
    layers = getattr(text_config, "layer_types", None) or ("sliding_attention",)
    return min(context, window) if window is not None and "sliding_attention" in layers else context
