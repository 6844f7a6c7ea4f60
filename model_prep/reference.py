"""What the checkpoint computes, by transformers in float32; knows no OpenVINO.

Prompts for calibration and verification are made here, by transformers' own processor and model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from model_prep.checkpoint import Checkpoint, load_model
from model_prep.processor import Processing

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
REPLY: Final = (
    "The image shows several things of different colours, shapes and sizes in front of a plain background."
)


@dataclass(frozen=True)
class Prompt:
    """A question about an image, embedded for the language model."""

    inputs_embeds: FloatArray
    """(position, hidden)."""
    tiles: FloatArray
    """(tile, 3, height, width), input of the vision model."""
    features: FloatArray
    """(tile, patch, hidden), output of the vision model."""
    of_image: NDArray[np.bool_]
    """(position,), True at the image's features."""

    def places(self, positions: int) -> IntArray:
        """A choice of `positions` positions: all text, and features evenly from the image."""
        image = np.flatnonzero(self.of_image)
        kept = min(len(image), max(1, positions - (len(self.of_image) - len(image))))
        spread = image[np.linspace(0, len(image) - 1, kept).round().astype(np.int64)]
        return np.sort(np.concatenate([np.flatnonzero(~self.of_image), spread]))


class _PromptReachedError(Exception):
    """Ends the forward pass at the beginning of the decoder."""


class Reference:
    """The checkpoint in float32; a decoder layer has float32 weights only while it computes."""

    def __init__(self, checkpoint: Checkpoint, processing: Processing) -> None:
        """Raises ConversionError if the weights cannot be read."""
        model = load_model(checkpoint, "auto")
        parts = checkpoint.family.parts
        self._tower, self._projector, self._decoder = (
            model.model.get_submodule(name) for name in (parts.tower, parts.projector, parts.decoder)
        )
        decoder = self._decoder
        layers, decoder.layers = decoder.layers, torch.nn.ModuleList()
        self.model = model.float()
        decoder.layers = layers
        for layer in layers:
            _widen_while_it_computes(layer)
        self._processing = processing
        self._tiles = checkpoint.family.tiles
        self._look_up_nothing_beyond_the_table()

    @property
    def layers(self) -> int:
        return len(self._decoder.layers)

    def prompt(
        self, image: Image.Image, text: str, vision: Callable[[FloatArray], FloatArray] | None = None
    ) -> Prompt:
        """One user turn with image and text.

        `vision` replaces vision tower and projector: tiles (tile, 3, height, width) → features
        (tile, patch, hidden).
        """
        inputs = self._processing.inputs(image, text)
        image_token_id = self._processing.processor.image_token_id
        seen: dict[str, Any] = {"of_image": (inputs["input_ids"][0] == image_token_id).numpy()}

        def keep_tiles(_tower: Any, arguments: Any, named: Any) -> tuple[Any, Any] | None:
            if self._tiles is not None:
                seen["tiles"] = self._tiles(inputs, self.model.config).numpy()
                return None
            pixel_values = arguments[0] if arguments else named["pixel_values"]
            seen["tiles"] = pixel_values.numpy()
            if vision is None:
                return None
            # One tile is enough to reach the projector, whose output is replaced.
            tiles = len(pixel_values)

            def first(value: Any) -> Any:
                return value[:1] if isinstance(value, torch.Tensor) and value.shape[:1] == (tiles,) else value

            return tuple(map(first, arguments)), {name: first(value) for name, value in named.items()}

        def replace(_projector: Any, _arguments: Any, output: Any) -> Any:
            own = output if isinstance(output, torch.Tensor) else output.pooler_output
            if vision is None:
                seen["features"] = own.numpy()
                return None
            seen["features"] = vision(seen["tiles"])
            others = torch.from_numpy(seen["features"]).reshape(-1, *own.shape[1:])
            if isinstance(output, torch.Tensor):
                return others
            output.pooler_output = others
            return output

        def keep_embeds(_decoder: Any, _arguments: Any, named: Any) -> None:
            seen["inputs_embeds"] = named["inputs_embeds"][0].numpy()
            raise _PromptReachedError

        inner = self.model.model
        hooks = [
            self._tower.register_forward_pre_hook(keep_tiles, with_kwargs=True),
            self._projector.register_forward_hook(replace),
            self._decoder.register_forward_pre_hook(keep_embeds, with_kwargs=True),
        ]
        try:
            with torch.no_grad():
                inner(**inputs)
        except _PromptReachedError:
            return Prompt(**seen)
        finally:
            for hook in hooks:
                hook.remove()
        raise AssertionError("a forward pass reaches the decoder")

    def embed(self, token_ids: IntArray) -> FloatArray:
        """token_ids (row, position) → inputs_embeds (row, position, hidden)."""
        with torch.no_grad():
            embeds: FloatArray = self.model.get_input_embeddings()(torch.from_numpy(token_ids)).numpy()
        return embeds

    def reply(self, new_tokens: int) -> list[int]:
        """Tokens of the given answer REPLY, which need not be generated."""
        token_ids = self._processing.processor.tokenizer(REPLY, add_special_tokens=False)["input_ids"]
        assert len(token_ids) >= new_tokens
        return list(token_ids[:new_tokens])

    def logits(
        self, inputs_embeds: FloatArray, last: int, on_layers: Callable[[int], None] = lambda _layers: None
    ) -> FloatArray:
        """inputs_embeds (position, hidden) → logits (last, vocabulary) of the `last` positions.

        `on_layers` is called after each layer, with 1.
        """
        decoder = self._decoder
        hooks = [layer.register_forward_hook(lambda *_: on_layers(1)) for layer in decoder.layers]
        try:
            with torch.no_grad():
                hidden = decoder(inputs_embeds=torch.from_numpy(inputs_embeds[None])).last_hidden_state
                logits: FloatArray = self.model.lm_head(hidden[:, -last:])[0].numpy()
        finally:
            for hook in hooks:
                hook.remove()
        return logits

    def _look_up_nothing_beyond_the_table(self) -> None:
        """Allow an image token without an embedding, as image features replace it."""
        table = self.model.get_input_embeddings()
        table.register_forward_pre_hook(
            lambda module, arguments: (arguments[0].clamp(max=module.num_embeddings - 1),)
        )


def _widen_while_it_computes(layer: torch.nn.Module) -> None:
    """Convert a layer's weights to float32 only while it computes; the 16-bit weights stay mapped."""
    stored: dict[torch.nn.Parameter, torch.Tensor] = {}

    def widen(*_: Any) -> None:
        for weight in layer.parameters():
            stored[weight] = weight.data
            weight.data = weight.data.float()

    def narrow(*_: Any) -> None:
        for weight, data in stored.items():
            weight.data = data
        stored.clear()

    layer.register_forward_pre_hook(widen)
    layer.register_forward_hook(narrow, always_call=True)
