"""Qwen2.5-VL: images of any size, attention in windows, and positions on three axes."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from contract.model_folder import MOST_PLACES, PLACE_COLUMN, PLACE_ROW
from model_prep.families.family import Family, Parts
from model_prep.families.qwen2_5_vl_processor import Qwen2_5_VLProcessor


class WindowVision(nn.Module):
    """The tower for one image of any size. Patches attend within their window, in some layers to all patches.

    transformers cuts windows by lists; here they are an axis, so that the module can be traced.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.tower = model.model.visual
        config = model.config.vision_config
        self.patch, self.merge = config.patch_size, config.spatial_merge_size
        self.side = config.window_size // self.merge // self.patch
        """Side of a window in merged patches."""
        # An image is a video of two equal frames, so the weights of both add up.
        self.kernel = nn.Parameter(self.tower.patch_embed.proj.weight.float().sum(2), requires_grad=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (1, 3, height, width) → features (1, patch, hidden), merged patches row by row."""
        plane = nn.functional.conv2d(pixel_values, self.kernel, stride=self.patch)[0]
        hidden, merge = plane.shape[0], self.merge
        rows, columns = plane.shape[1] // merge, plane.shape[2] // merge
        cells = plane.reshape(hidden, rows, merge, columns, merge).permute(1, 3, 2, 4, 0)
        states = cells.reshape(-1, hidden)
        rotary = self.tower.rotary_pos_emb(states, self._places(rows, columns))
        for number, block in enumerate(self.tower.blocks):
            whole = number in self.tower.fullatt_block_indexes
            states = states + self._attend(block.attn, block.norm1(states), rotary, rows, columns, whole)
            states = states + block.mlp(block.norm2(states))
        features: Tensor = self.tower.merger(states)[None]
        return features

    def _places(self, rows: int, columns: int) -> Tensor:
        """Row and column of each patch (patch, 2); patches that are merged follow each other."""
        shape = (rows, columns, self.merge, self.merge)
        down = torch.arange(rows * self.merge).reshape(rows, 1, self.merge, 1).expand(shape)
        across = torch.arange(columns * self.merge).reshape(1, columns, 1, self.merge).expand(shape)
        return torch.stack([down.reshape(-1), across.reshape(-1)], dim=-1)

    def _attend(
        self,
        attention: Any,
        states: Tensor,
        rotary: tuple[Tensor, Tensor],
        rows: int,
        columns: int,
        whole: bool,
    ) -> Tensor:
        """states (patch, hidden) → (patch, hidden)."""
        heads = attention.num_heads
        projected = attention.qkv(states).reshape(-1, 3, heads, states.shape[1] // heads)
        query, key = apply_rotary_pos_emb_vision(projected[:, 0], projected[:, 1], *rotary)
        query, key, value = (part.transpose(0, 1)[None] for part in (query, key, projected[:, 2]))
        visible = None
        if not whole:
            query, key, value = (self._windows(part, rows, columns) for part in (query, key, value))
            visible = self._visible(rows, columns)
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, scale=attention.scaling
        )
        if not whole:
            attended = self._joined(attended, rows, columns)
        joined: Tensor = attention.proj(attended[0].transpose(0, 1).reshape(-1, states.shape[1]))
        return joined

    def _covering(self, cells: int) -> Tensor:
        """Cell indices (place,) of all windows that cover `cells` cells; the last ones may exceed them."""
        return torch.arange((cells + self.side - 1) // self.side * self.side)

    def _windows(self, part: Tensor, rows: int, columns: int) -> Tensor:
        """(1, head, patch, size) → (window, head, patch of the window, size), edges repeated."""
        unit = self.merge**2
        heads, size = part.shape[1], part.shape[3]
        cells = part.reshape(heads, rows, columns, unit * size)
        down, across = self._covering(rows), self._covering(columns)
        cells = cells[:, down.clamp(max=rows - 1)][:, :, across.clamp(max=columns - 1)]
        windows = cells.reshape(
            heads, down.shape[0] // self.side, self.side, across.shape[0] // self.side, self.side, unit * size
        )
        return windows.permute(1, 3, 0, 2, 4, 5).reshape(-1, heads, self.side**2 * unit, size)

    def _visible(self, rows: int, columns: int) -> Tensor:
        """Additive mask (window, 1, 1, patch of the window): 0 at a patch."""
        down, across = self._covering(rows), self._covering(columns)
        there = (down < rows)[:, None] & (across < columns)[None, :]
        windows = there.reshape(
            down.shape[0] // self.side, self.side, across.shape[0] // self.side, self.side
        ).permute(0, 2, 1, 3)
        cells = windows.reshape(-1, self.side**2, 1).expand(-1, -1, self.merge**2)
        return torch.where(cells.reshape(-1, 1, 1, self.side**2 * self.merge**2), 0.0, MASKED)

    def _joined(self, windows: Tensor, rows: int, columns: int) -> Tensor:
        """The inverse of _windows()."""
        unit = self.merge**2
        heads, size = windows.shape[1], windows.shape[3]
        down, across = self._covering(rows), self._covering(columns)
        cells = windows.reshape(
            down.shape[0] // self.side, across.shape[0] // self.side, heads, self.side, self.side, unit * size
        )
        cells = cells.permute(2, 0, 3, 1, 4, 5).reshape(heads, down.shape[0], across.shape[0], unit * size)
        return cells[:, :rows, :columns].reshape(1, heads, -1, size)


MASKED: Final = torch.finfo(torch.float16).min


def _axes(position_ids: Tensor) -> Tensor:
    """position_ids (row, position), as contract.model_folder packs them → (axis, row, position)."""
    # Bits first: devices divide integers in float32, which holds 24 bits.
    time = torch.bitwise_and(position_ids, PLACE_ROW - 1)
    row = torch.bitwise_and(position_ids, (MOST_PLACES - 1) * PLACE_ROW) // PLACE_ROW
    column = torch.bitwise_and(position_ids, (MOST_PLACES - 1) * PLACE_COLUMN) // PLACE_COLUMN
    return torch.stack([time, time + row, time + column])


def _tiles(inputs: Mapping[str, Any], config: PretrainedConfig) -> Tensor:
    """The image (1, 3, height, width) of the processor's patches."""
    vision = config.vision_config
    patch, merge, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    (_, height, width) = inputs["image_grid_thw"][0].tolist()
    cells = inputs["pixel_values"].reshape(
        height // merge, width // merge, merge, merge, 3, frames, patch, patch
    )[:, :, :, :, :, 0]
    picture: Tensor = cells.permute(4, 0, 2, 5, 1, 3, 6).reshape(1, 3, height * patch, width * patch)
    return picture


QWEN2_5_VL: Final = Family(
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    packing="grid",
    towers=("qwen2_5_vl_vision", "qwen2_5_vl"),
    parts=Parts(tower="visual", projector="visual"),
    vision=WindowVision,
    numbers=lambda _: {},
    axes=_axes,
    tiles=_tiles,
)
