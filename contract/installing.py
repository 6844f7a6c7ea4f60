"""Says how to install an extra of this package, by a line that works where it is installed from."""

import json
import os
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

PACKAGE: Final = "captionmill"


def install_line(extra: str) -> str:
    """The command that adds `extra`: in the clone that is installed, else to the package by its name."""
    clone = _clone()
    if clone is None:
        return f"pip install {shlex.quote(f'{PACKAGE}[{extra}]')}"
    # A dot is what people know; it is right only in the clone itself.
    place = "." if clone == Path(os.path.realpath(os.curdir)) else str(clone)
    return f"pip install -e {shlex.quote(f'{place}[{extra}]')}"


def _clone() -> Path | None:
    """The clone that the package runs from; None if it was installed as a wheel."""
    try:
        told = distribution(PACKAGE).read_text("direct_url.json")
    except PackageNotFoundError:  # a clone on PYTHONPATH
        return Path(__file__).resolve().parent.parent
    origin = json.loads(told) if told else {}
    if not origin.get("dir_info", {}).get("editable", False):
        return None
    return Path(os.path.realpath(unquote(urlsplit(origin["url"]).path)))
