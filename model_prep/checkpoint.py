"""Opens a Hugging Face LLaVA-NeXT checkpoint, refuses any other before reading weights; knows no OpenVINO."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    PretrainedConfig,
)

from model_prep.refusal import ConversionError

MODEL_TYPE = "llava_next"
TEXT_MODEL_TYPES = ("llama", "mistral")
VISION_MODEL_TYPES = ("clip_vision_model",)
SELECT_STRATEGY = "default"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be converted, its weights not read yet."""

    source: str
    config: LlavaNextConfig
    parameter_count: int

    @property
    def name(self) -> str:
        """The hub id, or a local folder's own name: where it lies is nobody else's concern."""
        return Path(self.source).resolve().name if Path(self.source).exists() else self.source


def open_checkpoint(source: str) -> Checkpoint:
    """Read the config of a local folder or hub id. Raises ConversionError if it cannot be converted."""
    raw = _read_config(source)
    _require("architecture", raw.get("model_type"), (MODEL_TYPE,))
    try:
        config = LlavaNextConfig.from_dict(raw)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ConversionError(f"The config of {source} is not valid: {_reason(error)}") from error
    _require("language model", config.text_config.model_type, TEXT_MODEL_TYPES)
    _require("vision tower", config.vision_config.model_type, VISION_MODEL_TYPES)
    # The class token that "full" keeps has no place in the grid of patches.
    _require("vision_feature_select_strategy", config.vision_feature_select_strategy, (SELECT_STRATEGY,))
    window = getattr(config.text_config, "sliding_window", None)
    context = config.text_config.max_position_embeddings
    if window is not None and window < context:
        raise ConversionError(
            f"Sliding windows are not supported; {source} has one, {window} of {context} tokens."
        )
    with torch.device("meta"):
        skeleton = LlavaNextForConditionalGeneration(config)
    return Checkpoint(source, config, sum(weight.numel() for weight in skeleton.parameters()))


def load_model(checkpoint: Checkpoint) -> LlavaNextForConditionalGeneration:
    """Read the weights as float32. Raises ConversionError if any is missing or of another shape."""
    try:
        model, loading = LlavaNextForConditionalGeneration.from_pretrained(
            checkpoint.source,
            config=checkpoint.config,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ConversionError(
            f"The weights of {checkpoint.source} cannot be read: {_reason(error)}"
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ConversionError(
            f"{checkpoint.source} lacks {len(missing)} weights, the first one {missing[0]}."
        )
    model.eval()
    return model


def load_processor(source: str) -> LlavaNextProcessor:
    """Read processor, tokenizer and chat template. Raises ConversionError if one of them is missing."""
    try:
        processor = LlavaNextProcessor.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ConversionError(f"The processor of {source} cannot be read: {_reason(error)}") from error
    if not processor.chat_template:
        raise ConversionError(f"{source} has no chat template, and prompts are made from it alone.")
    if not processor.tokenizer.is_fast:
        raise ConversionError(f"{source} has no tokenizer.json, the one form a worker reads.")
    return processor


def _read_config(source: str) -> dict[str, Any]:
    if Path(source).exists() and not (Path(source) / "config.json").is_file():
        raise ConversionError(f"{source} is not a checkpoint: it is no folder with a config.json.")
    try:
        raw, _ = PretrainedConfig.get_config_dict(source)
    except (OSError, ValueError, HFValidationError) as error:
        raise ConversionError(f"{source} is not a checkpoint: {_reason(error)}") from error
    return dict(raw)


def _require(what: str, found: object, supported: tuple[str, ...]) -> None:
    if found not in supported:
        raise ConversionError(f"The {what} {found!r} is not supported; supported: {', '.join(supported)}.")


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
