"""The calibration set that ships: pictures with questions, some of them held out to judge by; knows no model.

SOURCES.md names source, author and licence of each picture. demo/training/calibration_set.py makes the set.
"""

from pathlib import Path
from typing import Final

from model_prep.calibration import Samples, read_samples
from model_prep.settings import BUILTIN

FOLDER: Final = Path(__file__).parent
CALIBRATION_JSONL: Final = "calibration.jsonl"
HELD_OUT_JSONL: Final = "held_out.jsonl"
SOURCES_MD: Final = "SOURCES.md"


def calibration_samples(source: str, count: int) -> Samples:
    """`count` samples of `source`, or at most `count` pictures of this set if the source is BUILTIN.

    Raises ConversionError as read_samples does.
    """
    return _read(CALIBRATION_JSONL, count) if source == BUILTIN else read_samples(source, count)


def held_out_samples() -> Samples:
    """The pictures that nothing is calibrated with."""
    return _read(HELD_OUT_JSONL, None)


def _read(manifest: str, most: int | None) -> Samples:
    path = FOLDER / manifest
    lines = len(path.read_text(encoding="utf-8").splitlines())
    return read_samples(str(path), lines if most is None else min(most, lines))
