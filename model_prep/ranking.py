"""Measures what each layer of a part loses in 8 bits; decides nothing."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import openvino
from openvino import Model

from contract.model_folder import VISION_XML
from model_prep.compress import compress_part
from model_prep.deciding import groups_of
from model_prep.layer_names import layers_of
from model_prep.reference import Prompt
from model_prep.settings import PrepSettings
from model_prep.verification import Comparison

CALIBRATING_PROMPTS: Final = 4
"""Prompts to calibrate with, as many models are made."""
MOST_S: Final = 1200.0
"""Seconds that measuring may take."""


def loss_by_layers(
    xml: Path,
    settings: PrepSettings,
    prompts: Sequence[Prompt],
    comparison: Comparison,
    save: Callable[[Model, Path], None],
    scratch: Path,
) -> dict[str, float]:
    """Layers, with spaces between → mean KL divergence in nats with these alone in 8 bits.

    `xml` is the exact part, and `comparison` has compared. Each model is written into `scratch` by `save`.
    Empty if it would take longer than MOST_S.
    """
    layers = layers_of(openvino.Core().read_model(xml))
    groups = groups_of(layers)
    part = "vision" if xml.name == VISION_XML else "language"
    found: dict[str, float] = {}
    begun = time.perf_counter()
    for group in groups:
        kept = tuple(layer for layer in layers if layer not in group)
        asked = getattr(settings, part).model_copy(update={"kept_layers": kept})
        model = compress_part(
            openvino.Core().read_model(xml),
            xml.name,
            settings.model_copy(update={part: asked}),
            prompts[:CALIBRATING_PROMPTS],
        )
        save(model, scratch / xml.name)
        del model
        found[" ".join(group)] = comparison.divergence({xml.name: scratch / xml.name})
        if (time.perf_counter() - begun) / len(found) * len(groups) > MOST_S:
            return {}
    return found
