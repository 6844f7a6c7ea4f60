"""InternVL in transformers' layout: a grid of tiles and the whole image, one feature per four patches."""

from typing import Any, Final

from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration, PretrainedConfig, PreTrainedModel

from contract.model_folder import TileMarks, side_px
from model_prep.families.family import Family
from model_prep.families.internvl_processor import InternVLProcessor


class InternVLVision(nn.Module):
    """Vision tower, pixel shuffle and projector."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.tower = model.model.vision_tower
        self.projector = model.model.multi_modal_projector
        self.shuffled = model.model.pixel_shuffle
        self.layer = model.config.vision_feature_layer
        self.ratio = model.config.downsample_ratio
        # Tiles have one size. Without this, the graph would interpolate positions in every call.
        table = self.tower.embeddings.position_embeddings
        if table is not None:
            self.tower.embeddings.interpolate_pos_encoding = lambda *_: table

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (tile, 3, height, width) → features (tile, patch, hidden)."""
        found = self.tower(pixel_values, output_hidden_states=True, return_dict=True)
        states = found.last_hidden_state if self.layer == -1 else found.hidden_states[self.layer]
        tiles, patches, hidden = states[:, 1:].shape
        side = int(patches**0.5)
        plane = self.shuffled(states[:, 1:].reshape(tiles, side, side, hidden), scale_factor=self.ratio)
        features: Tensor = self.projector(plane.reshape(tiles, -1, plane.shape[-1]))
        return features


def _numbers(config: PretrainedConfig) -> dict[str, object]:
    side = side_px(config.vision_config, "image_size") // side_px(config.vision_config, "patch_size")
    return {"image_seq_length": round(side**2 * config.downsample_ratio**2)}


def _marks(processor: Any) -> TileMarks:
    return TileMarks(begin=processor.start_image_token, end=processor.end_image_token)


INTERNVL: Final = Family(
    InternVLForConditionalGeneration,
    InternVLProcessor,
    packing="tiles",
    towers=("internvl_vision",),
    vision=InternVLVision,
    numbers=_numbers,
    marks=_marks,
)
