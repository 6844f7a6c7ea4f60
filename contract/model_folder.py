"""File names, port names and manifest of a model folder; reads no file.

Names are those that optimum-intel, OpenVINO GenAI and OpenVINO Model Server look for.
"""

from typing import Any, Final, Literal

from pydantic import Field

from contract.base import Contract

VISION_XML: Final = "openvino_vision_embeddings_model.xml"
"""pixel_values (tile, channel, height, width) → projected image features (tile, patch, hidden)."""
TEXT_XML: Final = "openvino_text_embeddings_model.xml"
"""input_ids (row, position) → inputs_embeds (row, position, hidden)."""
LANGUAGE_XML: Final = "openvino_language_model.xml"
"""attention_mask (row, past + position), position_ids (row, position), inputs_embeds (row, position, hidden),
beam_idx (row) → logits (row, 1, vocabulary) of the last position. Its state holds keys and values."""
MANIFEST_JSON: Final = "captionmill.json"
CONFIG_JSON: Final = "config.json"
"""The checkpoint's config. A family with an image newline has it there, as a list of `hidden` numbers."""

PIXEL_VALUES: Final = "pixel_values"
INPUT_IDS: Final = "input"
INPUTS_EMBEDS: Final = "inputs_embeds"
ATTENTION_MASK: Final = "attention_mask"
POSITION_IDS: Final = "position_ids"
BEAM_IDX: Final = "beam_idx"
LOGITS: Final = "logits"

Packing = Literal["view", "anyres", "anyres_max", "rows", "tiles", "grid"]
"""How an image's features become its sequence of tokens. view: one view. anyres: a base tile and a grid, with
an image newline after each row. anyres_max: the same, the grid shrunk to the tiles of vision_aspect_ratio.
rows: patches of an image of any size, with a break token after each row and an end token after the last.
tiles: the tiles of a grid row by row, then the base tile, with the manifest's marks between them.
grid: merged patches of an image of any size, whose positions have row and column."""

PLACE_ROW: Final = 2**15
PLACE_COLUMN: Final = 2**23
"""With the packing "grid", a position id is position + row x PLACE_ROW + column x PLACE_COLUMN. Text tokens
have row and column 0. All tokens of an image have the position where the image begins; the next token's is
larger by the longer side of the image."""
MOST_PLACES: Final = PLACE_COLUMN // PLACE_ROW
"""Rows or columns of an image. All three numbers fit into the 31 bits that devices compute with."""

WeightFormat = Literal["fp32", "fp16", "int8", "int4"]
VisionFormat = Literal["fp32", "fp16", "int8"]


class TileMarks(Contract):
    """Texts around the tiles of an image, with the packing "tiles"."""

    begin: str = Field(default="", description="before everything")
    tile: str = Field(default="", description="before each tile of the grid; {row} and {column} count from 1")
    row_end: str = Field(default="", description="after each row of the grid")
    grid_end: str = Field(default="", description="after the grid")
    base: str = Field(default="", description="before the base tile")
    end: str = Field(default="", description="after everything")

    def text(self, grid: tuple[int, int], image_token: str) -> str:
        """Marks and an image token for each tile of a `grid` (height, width) and the base tile."""
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
    """captionmill.json: what a published model folder is and was made from."""

    version: Literal[2] = 2
    model: str = Field(
        min_length=1, description="model id: the source's name, weight format and content digest"
    )
    source: str = Field(description="hub id or name of its checkpoint")
    revision: str | None = Field(description="the checkpoint's commit on the hub")
    packing: Packing | None = Field(
        default=None,
        description="packing of image features; None in older folders, where model_type decides",
    )
    marks: TileMarks | None = Field(default=None, description="only with the packing tiles")
    weight_format: WeightFormat
    vision_format: VisionFormat
    settings: dict[str, object] = Field(description="all settings of the conversion")
    properties: dict[str, str] = Field(
        default_factory=dict,
        description="OpenVINO properties to compile with; a worker's settings override them",
    )
    made_with: dict[str, str] = Field(description="package → version")
    files: dict[str, FolderFile] = Field(description="file name → size and hash, without the manifest itself")

    @property
    def size_bytes(self) -> int:
        """Size of all files except the manifest."""
        return sum(file.size_bytes for file in self.files.values())


def side_px(vision_config: Any, field: Literal["image_size", "patch_size"]) -> int:
    """The side of a vision tower's square images or patches; the config has one number or both sides.

    Raises ValueError if they are not square.
    """
    value = getattr(vision_config, field, None)
    sides = set(value) if isinstance(value, list | tuple) else {value}
    side = sides.pop() if len(sides) == 1 else None
    if not isinstance(side, int) or side <= 0:
        raise ValueError(f"{field} is {value!r}.")
    return side


def context_tokens(text_config: Any) -> int:
    """Tokens that can attend to each other: the context, or a narrower sliding window that is in use.

    `text_config` is a language model's config in transformers.
    """
    context: int = text_config.max_position_embeddings
    window = getattr(text_config, "sliding_window", None)
    layers = getattr(text_config, "layer_types", None) or ("sliding_attention",)
    return min(context, window) if window is not None and "sliding_attention" in layers else context
