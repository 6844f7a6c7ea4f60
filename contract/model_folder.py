"""The model folder: file and port names shared by whoever writes one and whoever runs one.

Names are those that optimum-intel, OpenVINO GenAI and OpenVINO Model Server look for.
"""

from typing import Final, Literal

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

WeightFormat = Literal["fp32", "fp16", "int8", "int4"]
VisionFormat = Literal["fp32", "fp16", "int8"]


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
