"""Checks disk space and memory before a conversion; knows sizes of models, but no model."""

import os
import shutil
from pathlib import Path
from typing import Final

import psutil

from model_prep.checkpoint import ParameterCounts
from model_prep.refusal import ConversionError

FLOAT_BYTES: Final = 4
COMPARING_SHARE: Final = 0.5
"""Share of the available memory for the float32 models of a comparison."""
MARGIN_DISK_BYTES: Final = 32 << 20
"""Disk space for graphs, tokenizer and configs, beside the weights."""
MARGIN_MEMORY_BYTES: Final = 1 << 30
"""Memory for the programs, and for matrices while they are compressed."""


CALIBRATING_COPIES: Final = {"vision": 4, "language": 4}
"""Copies of a part's weights in float32 in memory during calibration; for language assumed, not measured."""
CALIBRATING_PASSES: Final = 2
"""Times that each calibration prompt passes the part."""
CALIBRATING_S: Final = 3600.0
"""Seconds that the preset auto may calibrate the language model."""
CORE_FLOPS: Final = 4e10
"""Operations in float32 in a second on a core, cautiously."""


def calibrating_bytes(counts: ParameterCounts, part: str) -> int:
    """Memory to calibrate `vision` or `language`."""
    return CALIBRATING_COPIES[part] * FLOAT_BYTES * int(getattr(counts, part))


def calibrating_s(counts: ParameterCounts, positions: int) -> float:
    """Seconds to calibrate the language model on prompts of so many positions together."""
    operations = CALIBRATING_PASSES * 2 * counts.language * positions
    return operations / (CORE_FLOPS * len(os.sched_getaffinity(0)))


def require_disk(out: Path, needed_bytes: int) -> None:
    """Raise ConversionError unless the disk of `out` has `needed_bytes` and MARGIN_DISK_BYTES."""
    existing = next(folder for folder in out.absolute().parents if folder.is_dir())
    needed, free = needed_bytes + MARGIN_DISK_BYTES, shutil.disk_usage(existing).free
    if free < needed:
        raise ConversionError(
            f"{out} needs {needed / 1e9:.1f} GB of disk space while it is made; {free / 1e9:.1f} GB are free."
        )


def require_memory(needed_bytes: int) -> None:
    """Raise ConversionError unless `needed_bytes` and MARGIN_MEMORY_BYTES of memory are available."""
    needed, available = needed_bytes + MARGIN_MEMORY_BYTES, available_memory_bytes()
    if available < needed:
        raise ConversionError(
            f"The conversion needs {needed / 1e9:.1f} GB of memory; {available / 1e9:.1f} GB are available."
        )


def layers_at_once(counts: ParameterCounts, of_layers: int, memory_bytes: int) -> int:
    """Number of decoder layers in float32 that fit into memory during a comparison, at least one.

    One more layer and all other parts are in memory too, the parts both in torch and in OpenVINO.
    """
    others = counts.layer + 2 * (counts.vision + counts.embeddings + counts.head)
    room = COMPARING_SHARE * memory_bytes / FLOAT_BYTES - others
    return min(of_layers, max(1, int(room / counts.layer)))


def available_memory_bytes() -> int:
    """Memory that processes can still take without swapping, including pages of mapped files."""
    return int(psutil.virtual_memory().available)
