"""The conversion, checkpoint to published model folder, as a story; each step is another file's work."""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import openvino
from transformers import LlavaNextForConditionalGeneration

from contract.model_folder import (
    CONFIG_JSON,
    LANGUAGE_XML,
    TEXT_XML,
    VISION_XML,
    FolderManifest,
    WeightFormat,
)
from model_prep.checkpoint import load_model, load_processor, open_checkpoint
from model_prep.compress import BYTES_PER_WEIGHT, compress_weights
from model_prep.export import export_language, export_text, export_vision
from model_prep.publish import require_place, require_space, staged, write_manifest

PARTS = (
    ("vision tower and projector", export_vision, VISION_XML),
    ("token embeddings", export_text, TEXT_XML),
    ("language model", export_language, LANGUAGE_XML),
)
STAGE_COUNT = len(PARTS) + 4
MADE_WITH = ("openvino", "nncf", "torch", "transformers")


def convert(
    source: str,
    out: Path,
    *,
    weight_format: WeightFormat,
    name: str,
    overwrite: bool,
    on_stage: Callable[[str], None],
) -> FolderManifest:
    """Convert the checkpoint `source` into the model folder `out`.

    `on_stage` is called with the name of each of STAGE_COUNT stages as it begins. Raises ConversionError;
    whatever is raised, `out` is as it was before.
    """
    on_stage("checking checkpoint and disk")
    require_place(out, overwrite=overwrite)
    checkpoint = open_checkpoint(source)
    require_space(out, round(checkpoint.parameter_count * BYTES_PER_WEIGHT[weight_format]))
    processor = load_processor(source)
    with staged(out) as stage:
        on_stage("reading weights")
        model = load_model(checkpoint)
        for part, export, file_name in PARTS:
            on_stage(part)
            compressed = compress_weights(export(model), weight_format)
            openvino.save_model(compressed, stage / file_name, compress_to_fp16=False)
        on_stage("config, processor and tokenizer")
        _write_config(model, stage)
        model.generation_config.save_pretrained(stage)
        processor.save_pretrained(stage)
        # Readers of the optimum layout look for the image processor in a file of its own.
        processor.image_processor.save_pretrained(stage)
        on_stage("manifest")
        return write_manifest(
            stage,
            name=name,
            source=checkpoint.name,
            weight_format=weight_format,
            made_with={package: version(package) for package in MADE_WITH},
        )


def _write_config(model: LlavaNextForConditionalGeneration, folder: Path) -> None:
    """The checkpoint's whole config, and image_newline in it as a list of numbers."""
    config = model.config.to_dict()
    # A path on the machine that converts.
    config.pop("_name_or_path", None)
    config["image_newline"] = model.model.image_newline.tolist()
    (folder / CONFIG_JSON).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
