"""Parses JSON of any origin; knows nothing of its meaning."""

import json
import math
from typing import Any, Final

from producer.sources.refusal import SourceError


def _finite(text: str) -> float | None:
    """The number; None if it is too large for a float."""
    number = float(text)
    return number if math.isfinite(number) else None


def _no_number(_: str) -> None:
    """None for NaN and Infinity, which are not JSON and stand for a missing number."""


DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_no_number)
"""Decodes numbers that are not finite as null, so that outputs are valid JSON."""


def parsed_json(text: str) -> Any:
    """Parse a text. Raises SourceError for invalid JSON."""
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise SourceError(f"not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError):
        raise SourceError("not JSON: a number too long, or brackets too deep") from None


def parsed_object(text: str) -> dict[str, Any]:
    """Parse a JSON object. Raises SourceError for anything else."""
    fields = parsed_json(text)
    if not isinstance(fields, dict):
        raise SourceError("not a JSON object")
    return fields
