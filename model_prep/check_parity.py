"""Compares what a model folder and its checkpoint compute; knows not how."""

from pathlib import Path
from typing import Final

from contract.model_folder import FolderManifest
from model_prep.check import INPUTS, Check
from model_prep.checkpoint import open_checkpoint
from model_prep.layer_blocks import UncutError
from model_prep.pictures import drawn_samples
from model_prep.processor import load_processing
from model_prep.reading import Reading
from model_prep.reference import Reference
from model_prep.resources import available_memory_bytes, layers_at_once
from model_prep.source import fetch_weights, find_source
from model_prep.verification import Comparison
from model_prep.verified import PARITY_TOLERANCE

CHAT_TEMPLATE: Final = "chat_template.jinja"


def check_parity(
    folder: Path, manifest: FolderManifest, source: str, revision: str | None, vision_tower: str | None
) -> Check:
    """Compare `folder` with the checkpoint `source`. Raises ConversionError."""
    found = find_source(source, revision)
    checkpoint = open_checkpoint(str(found.folder), Reading(None, vision_tower, allow_untested=True))
    for one in (found, *checkpoint.tower_sources):
        fetch_weights(one)
    reference = Reference(checkpoint, load_processing(checkpoint, str(folder / CHAT_TEMPLATE)))
    at_once = layers_at_once(checkpoint.parameters, reference.layers, available_memory_bytes())
    try:
        parity, _ = Comparison(reference, {xml: folder / xml for xml in INPUTS}, at_once).compare(
            drawn_samples(), {}
        )
    except UncutError:
        return Check("parity", "differs", "memory is short, and this language model cannot be cut")
    said = (
        f"logits differ by {parity.max_logit_difference:.1e} and image features by "
        f"{parity.max_feature_difference:.1e} of the largest, {parity.token_agreement:.1%} of "
        f"{parity.tokens} tokens are the same"
    )
    if parity.holds:
        return Check("parity", "ok", said)
    exact = {manifest.weight_format, manifest.vision_format} == {"fp32"}
    return Check("parity", "failed" if exact else "differs", f"{said}; {PARITY_TOLERANCE:.0e} is exact")
