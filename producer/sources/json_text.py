"""JSON as it comes from anywhere; knows nothing of what it says."""

import json
import math
from typing import Any, Final

from producer.sources.refusal import SourceError


def _finite(text: str) -> float | None:
    """A number; None for one that is too large for any that JSON's readers know."""
    number = float(text)
    return number if math.isfinite(number) else None


def _no_number(_: str) -> None:
    """NaN and Infinity, which are no JSON and stand for a number that is not there."""


DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_no_number)
"""What is no finite number is null, so that outputs are JSON whatever came in."""


def parsed_json(text: str) -> Any:
    """Raises SourceError for what is not JSON."""
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise SourceError(f"not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError):
        raise SourceError("not JSON: a number too long, or brackets too deep") from None


def parsed_object(text: str) -> dict[str, Any]:
    """A JSON object. Raises SourceError for anything else."""
    fields = parsed_json(text)
    if not isinstance(fields, dict):
        raise SourceError("not a JSON object")
    return fields
