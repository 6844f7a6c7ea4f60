"""Reads a checkpoint's processor and completes it from config.json; knows no weights.

Older versions of transformers saved processors without the numbers that now determine the count of image
tokens. They come from config.json, which determines what the model computes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from tokenizers import AddedToken
from transformers import ProcessorMixin

from contract.chat_template import starts_itself
from contract.model_folder import TileMarks
from model_prep.chat_template import ChatTemplate, choose_template, encode
from model_prep.checkpoint import Checkpoint
from model_prep.refusal import ConversionError, refusing
from model_prep.tokenizer import SCRIPTS, is_sentencepiece_alone, read_tokenizer, require_sentencepiece

IMAGE_TOKEN: Final = "<image>"
PROBE: Final = "What is shown here?"
PROBE_SIZES_PX: Final = ((97, 97), (60, 190), (190, 60))
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Processing:
    """Processor, tokenizer and chat template: they turn an image and a question into model inputs."""

    processor: ProcessorMixin
    template: ChatTemplate
    marks: TileMarks | None = None
    """Texts around the tiles of an image."""

    def inputs(self, image: Image.Image, question: str) -> Any:
        """The model's inputs as tensors. Raises ConversionError if a worker would produce other tokens."""
        text = self.template.ask(self.processor.tokenizer, question)
        plain = encode(self.processor.tokenizer, text)
        inputs = self.processor(
            images=image,
            text=text,
            return_tensors="pt",
            add_special_tokens=not starts_itself(text, self.processor.tokenizer.bos_token),
        )
        tiles = inputs["pixel_values"].shape[:-3].numel()
        if not self._is_same(inputs["input_ids"][0].tolist(), plain, tiles):
            raise ConversionError(
                "The checkpoint's processor makes other tokens of a prompt than its tokenizer does, "
                "so a worker would ask the model something else."
            )
        return inputs

    def _is_same(self, token_ids: list[int], plain: list[int], tiles: int) -> bool:
        """Whether the processor's tokens are the tokenizer's, with an image's run for the image token."""
        image_token_id = self.processor.image_token_id
        if image_token_id not in plain:
            return token_ids == plain
        begins = plain.index(image_token_id)
        ends = len(token_ids) - len(plain) + begins + 1
        run = token_ids[begins:ends]
        if token_ids != [*plain[:begins], *run, *plain[begins + 1 :]] or image_token_id not in run:
            return False
        return self.marks is None or any(run == self._run(self.marks, grid, run) for grid in _grids(tiles))

    def _run(self, marks: TileMarks, grid: tuple[int, int], like: list[int]) -> list[int]:
        """The tokens that a worker makes for an image of `grid`, with as many image tokens as `like`."""
        processor: Any = self.processor
        text = marks.text(grid, processor.image_token)
        tile = like.count(processor.image_token_id) // (1 + grid[0] * grid[1])
        token_ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [
            token_id
            for written in token_ids
            for token_id in [written] * (tile if written == processor.image_token_id else 1)
        ]


def load_processing(checkpoint: Checkpoint, chat_template: str | None = None) -> Processing:
    """Read processor, tokenizer and chat template; `chat_template` replaces the checkpoint's.

    Raises ConversionError if one of them is missing or does not fit the model.
    """
    source = Path(checkpoint.source)
    if is_sentencepiece_alone(source):
        require_sentencepiece(checkpoint.source)
    with refusing(f"The processor of {source} cannot be read"):
        processor = checkpoint.read_processor()
        _complete(processor, checkpoint)
    template = choose_template(
        chat_template, processor, checkpoint.family, checkpoint.config, checkpoint.source
    )
    processor.chat_template = processor.tokenizer.chat_template = template.text
    marks = checkpoint.family.marks
    processing = Processing(processor, template, None if marks is None else marks(processor))
    _require_fit(checkpoint, processing)
    return processing


def _complete(processor: Any, checkpoint: Checkpoint) -> None:
    """Complete `processor` in place by what config.json determines. Raises ConversionError."""
    config, source = checkpoint.config, checkpoint.source
    tower = config.vision_config
    if is_sentencepiece_alone(Path(source)):
        processor.tokenizer = read_tokenizer(Path(source))
    if not processor.tokenizer.is_fast:
        raise ConversionError(f"{source} has no tokenizer.json, the one form a worker reads.")
    # Fail here if the tokenizer is broken for some script, and not in a worker.
    for text in SCRIPTS:
        processor.tokenizer.decode(processor.tokenizer(text)["input_ids"])
    _complete_image_token(processor, config.image_token_id, source)
    for name, value in checkpoint.family.numbers(config).items():
        if hasattr(processor, name):
            setattr(processor, name, value)
    images = processor.image_processor
    if checkpoint.family.anyres and not checkpoint.says("image_grid_pinpoints"):
        config.image_grid_pinpoints = [list(pinpoint) for pinpoint in images.image_grid_pinpoints]
    elif checkpoint.family.anyres and not _says_pinpoints(Path(source)):
        images.image_grid_pinpoints = config.image_grid_pinpoints
    if checkpoint.packing == "rows":
        images.patch_size = {"height": tower.patch_size, "width": tower.patch_size}


def _complete_image_token(processor: Any, image_token_id: int, source: str) -> None:
    """Set the image token to the id in config.json; add it to the tokenizer if that is the next free id."""
    tokenizer = processor.tokenizer
    if image_token_id == len(tokenizer):
        tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    token = tokenizer.convert_ids_to_tokens(image_token_id) if 0 <= image_token_id < len(tokenizer) else None
    if token is None or tokenizer.convert_tokens_to_ids(token) != image_token_id:
        raise ConversionError(
            f"The config of {source} says that the image token is number {image_token_id}; "
            f"its tokenizer has {len(tokenizer)} tokens and none of that number."
        )
    processor.image_token, processor.image_token_id = token, image_token_id
    if getattr(tokenizer, "image_token", token) != token:
        tokenizer.image_token = token


def _says_pinpoints(folder: Path) -> bool:
    files = (folder / name for name in ("preprocessor_config.json", "processor_config.json"))
    return any("image_grid_pinpoints" in file.read_text(encoding="utf-8") for file in files if file.is_file())


def _grids(tiles: int) -> list[tuple[int, int]]:
    """All grids (height, width) of an image with `tiles` tiles, the base tile included."""
    if tiles == 1:
        return [(0, 0)]
    return [(height, (tiles - 1) // height) for height in range(1, tiles) if (tiles - 1) % height == 0]


def _require_fit(checkpoint: Checkpoint, processing: Processing) -> None:
    """Raise ConversionError unless model and processor agree on the number of tokens of an image.

    The model is on the meta device: its tensors have shapes and no data.
    """
    source = checkpoint.source
    with refusing(f"The processor of {source} cannot be read"):
        for height, width in PROBE_SIZES_PX:
            inputs = processing.inputs(Image.new("RGB", (width, height), "grey"), PROBE)
            tokens = int((inputs.pop("input_ids") == checkpoint.config.image_token_id).sum())
            found = _features(checkpoint, inputs)
            if found != tokens:
                raise ConversionError(
                    f"{source} does not fit together: for an image of {height} x {width} px, its model makes "
                    f"{found} features and its processor {tokens} tokens."
                )


def _features(checkpoint: Checkpoint, inputs: Any) -> int:
    """Number of features that the model computes for a processed image."""
    pixel_values = inputs.pop("pixel_values")
    if checkpoint.packing == "grid":
        unit: int = checkpoint.config.vision_config.spatial_merge_size**2
        return int(inputs["image_grid_thw"].prod(-1).sum()) // unit
    if checkpoint.packing == "rows":
        rows, columns = (
            side // checkpoint.config.vision_config.patch_size for side in pixel_values.shape[-2:]
        )
        return int(rows * columns)
    inputs.pop("attention_mask")
    with torch.no_grad(), torch.device("meta"):
        model = checkpoint.family.model(checkpoint.config)
        if checkpoint.packing == "tiles":
            tiles = pixel_values.flatten(0, -4)
            return int(checkpoint.family.vision(model)(tiles.to("meta")).shape[:-1].numel())
        features = model.get_image_features(pixel_values=pixel_values.to("meta"), **inputs).pooler_output
    return sum(one.shape[:-1].numel() for one in features)
