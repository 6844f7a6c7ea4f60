"""The command line that installs an extra of this package, from wherever the package was installed."""

import json
import os
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

PACKAGE: Final = "captionmill"
_ABOVE_PACKAGES: Final = Path(__file__).resolve().parent.parent
"""Root of the clone, or the site-packages folder."""


def install_line(extra: str) -> str:
    """The pip command that installs `extra` from the clone, wheel or folder in use, else by package name."""
    if (_ABOVE_PACKAGES / "pyproject.toml").is_file():
        # People know the dot; it is right only inside the clone.
        place = "." if Path(os.path.realpath(os.curdir)) == _ABOVE_PACKAGES else str(_ABOVE_PACKAGES)
        return f"pip install -e {shlex.quote(f'{place}[{extra}]')}"
    return f"pip install {shlex.quote(f'{_installed_from() or PACKAGE}[{extra}]')}"


def _installed_from() -> Path | None:
    """The wheel or folder that pip installed from, if it still exists."""
    try:
        told = distribution(PACKAGE).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    address = urlsplit(json.loads(told)["url"] if told else "")
    place = Path(unquote(address.path))
    return place if address.scheme == "file" and place.exists() else None
