"""Says how to install an extra of this package, by a line that works where it is installed from."""

import json
import os
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

PACKAGE: Final = "captionmill"
_ABOVE_PACKAGES: Final = Path(__file__).resolve().parent.parent
"""The clone, or the folder of installed packages."""


def install_line(extra: str) -> str:
    """The command that adds `extra`: to the clone, the wheel or the folder this came from, else by name."""
    if (_ABOVE_PACKAGES / "pyproject.toml").is_file():
        # A dot is what people know; it is right only in the clone itself.
        place = "." if Path(os.path.realpath(os.curdir)) == _ABOVE_PACKAGES else str(_ABOVE_PACKAGES)
        return f"pip install -e {shlex.quote(f'{place}[{extra}]')}"
    return f"pip install {shlex.quote(f'{_installed_from() or PACKAGE}[{extra}]')}"


def _installed_from() -> Path | None:
    """The wheel or folder that pip was given, if it is still there."""
    try:
        told = distribution(PACKAGE).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    address = urlsplit(json.loads(told)["url"] if told else "")
    place = Path(unquote(address.path))
    return place if address.scheme == "file" and place.exists() else None
