"""Says before a conversion starts whether disk and memory will do; knows the sizes of models, no model."""

import shutil
from pathlib import Path
from typing import Final

import psutil

from model_prep.checkpoint import ParameterCounts
from model_prep.refusal import ConversionError

FLOAT_BYTES: Final = 4
COMPARING_SHARE: Final = 0.5
"""Of the memory that is available, for the models in float32 that are compared."""
MARGIN_DISK_BYTES: Final = 32 << 20
"""For graphs, tokenizer and configs, beside the weights."""
MARGIN_MEMORY_BYTES: Final = 1 << 30
"""For the programs themselves, and for matrices while they are compressed."""


def require_disk(out: Path, needed_bytes: int) -> None:
    """Raise ConversionError if the disk of `out` has not `needed_bytes` for weights and a little more."""
    existing = next(folder for folder in out.absolute().parents if folder.is_dir())
    needed, free = needed_bytes + MARGIN_DISK_BYTES, shutil.disk_usage(existing).free
    if free < needed:
        raise ConversionError(
            f"{out} needs {needed / 1e9:.1f} GB of disk space while it is made; {free / 1e9:.1f} GB are free."
        )


def require_memory(needed_bytes: int) -> None:
    """Raise ConversionError if less memory is available than `needed_bytes` and a little more."""
    needed, available = needed_bytes + MARGIN_MEMORY_BYTES, available_memory_bytes()
    if available < needed:
        raise ConversionError(
            f"The conversion needs {needed / 1e9:.1f} GB of memory; {available / 1e9:.1f} GB are available."
        )


def layers_at_once(counts: ParameterCounts, of_layers: int, memory_bytes: int) -> int:
    """As many of the decoder's layers as may be in memory in float32 while they are compared, at least one.

    One more of them and all other parts are there as well, these in torch and in OpenVINO.
    """
    others = counts.layer + 2 * (counts.vision + counts.embeddings + counts.head)
    room = COMPARING_SHARE * memory_bytes / FLOAT_BYTES - others
    return min(of_layers, max(1, int(room / counts.layer)))


def available_memory_bytes() -> int:
    """What processes may still take without swapping; pages of mapped files count as available."""
    return int(psutil.virtual_memory().available)
