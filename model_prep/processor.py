"""Reads a checkpoint's processor and completes it from config.json; knows no weights.

Older versions of transformers saved processors without the numbers that today's count image tokens with.
What the model computes is decided by config.json alone, so it is config.json that fills them in.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from tokenizers import AddedToken
from transformers import ProcessorMixin

from contract.chat_template import starts_itself
from model_prep.chat_template import ChatTemplate, choose_template, encode
from model_prep.checkpoint import Checkpoint
from model_prep.families.family import CLASS_TOKENS
from model_prep.refusal import ConversionError, refusing
from model_prep.tokenizer import SCRIPTS, is_sentencepiece_alone, read_tokenizer, require_sentencepiece

IMAGE_TOKEN: Final = "<image>"
PROBE: Final = "What is shown here?"
PROBE_SIZES_PX: Final = ((97, 97), (60, 190), (190, 60))
"""(height, width)"""


@dataclass(frozen=True)
class Processing:
    """What makes a model's inputs of an image and a question: processor, tokenizer and chat template."""

    processor: ProcessorMixin
    template: ChatTemplate

    def inputs(self, image: Image.Image, question: str) -> Any:
        """As tensors. Raises ConversionError if a worker would make other tokens of the same question."""
        text = self.template.ask(self.processor.tokenizer, question)
        plain = encode(self.processor.tokenizer, text)
        inputs = self.processor(
            images=image,
            text=text,
            return_tensors="pt",
            add_special_tokens=not starts_itself(text, self.processor.tokenizer.bos_token),
        )
        if self._collapsed(inputs["input_ids"][0].tolist(), plain) != plain:
            raise ConversionError(
                "The checkpoint's processor makes other tokens of a prompt than its tokenizer does, "
                "so that a worker would ask the model something else."
            )
        return inputs

    def _collapsed(self, token_ids: list[int], plain: list[int]) -> list[int]:
        """The processor's tokens with one image token for the image's run, as the tokenizer has it."""
        image_token_id = self.processor.image_token_id
        if image_token_id not in token_ids:
            return token_ids
        begins = token_ids.index(image_token_id)
        ends = begins + 1 + len(token_ids) - len(plain)
        return [*token_ids[:begins], image_token_id, *token_ids[ends:]]


def load_processing(checkpoint: Checkpoint, chat_template: str | None = None) -> Processing:
    """Read processor, tokenizer and chat template, or take the template that is given.

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
    processing = Processing(processor, template)
    _require_fit(checkpoint, processing)
    return processing


def _complete(processor: Any, checkpoint: Checkpoint) -> None:
    """Change `processor` in place: what config.json decides is as it says."""
    config, source = checkpoint.config, checkpoint.source
    tower = config.vision_config
    if is_sentencepiece_alone(Path(source)):
        processor.tokenizer = read_tokenizer(Path(source))
    if not processor.tokenizer.is_fast:
        raise ConversionError(f"{source} has no tokenizer.json, the one form a worker reads.")
    # A broken one shows in texts of some script, and would only in a worker.
    for text in SCRIPTS:
        processor.tokenizer.decode(processor.tokenizer(text)["input_ids"])
    _complete_image_token(processor, config.image_token_id, source)
    decided = {
        "patch_size": tower.patch_size,
        "num_additional_image_tokens": CLASS_TOKENS[tower.model_type],
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", "default"),
        "num_image_tokens": (tower.image_size // tower.patch_size) ** 2,
        "vision_aspect_ratio": getattr(config, "vision_aspect_ratio", None),
    }
    for name, value in decided.items():
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
    """The image token is the one that config.json numbers; one beyond the tokenizer's last is added to it."""
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


def _require_fit(checkpoint: Checkpoint, processing: Processing) -> None:
    """Raise ConversionError unless model and processor give an image the same number of tokens.

    The model's numbers come from one without weights: its tensors have shapes alone.
    """
    source = checkpoint.source
    with refusing(f"The processor of {source} cannot be read"):
        for height, width in PROBE_SIZES_PX:
            inputs = processing.inputs(Image.new("RGB", (width, height), "grey"), PROBE)
            tokens = int((inputs.pop("input_ids") == checkpoint.config.image_token_id).sum())
            found = _features(checkpoint, inputs)
            if found != tokens:
                raise ConversionError(
                    f"{source} does not fit together: of an image of {height} x {width} px its model makes "
                    f"{found} features, and its processor has {tokens} tokens for them."
                )


def _features(checkpoint: Checkpoint, inputs: Any) -> int:
    """How many the model makes of an image that is ready for it."""
    pixel_values = inputs.pop("pixel_values")
    if checkpoint.packing == "rows":
        rows, columns = (
            side // checkpoint.config.vision_config.patch_size for side in pixel_values.shape[-2:]
        )
        return int(rows * columns)
    inputs.pop("attention_mask")
    with torch.no_grad(), torch.device("meta"):
        model = checkpoint.family.model(checkpoint.config)
        features = model.get_image_features(pixel_values=pixel_values.to("meta"), **inputs).pooler_output
    return sum(one.shape[:-1].numel() for one in features)
