"""A worker's settings as options: name, placeholder, default and group; reads no environment.

The command `worker` and docs/settings.md are both made from this.
"""

from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from worker.settings import GROUPS, Settings

OPTIONS: Final = {
    "redis_url": "--redis",
    "model_folder": "--model",
    "image_roots": "--image-root",
    "url_schemes": "--url-scheme",
    "url_hosts": "--url-host",
    "url_private_networks": "--url-private-network",
    # A help page of 80 columns has no room for the full name.
    "dynamic_quantization_group_size": "--quantization-group",
}
"""Setting → its option, where the names differ: options that are typed often, or may be repeated."""
UNITS: Final = {"_bytes": "BYTES", "_px": "PIXELS", "_s": "SECONDS"}
"""End of a setting's name → placeholder for its value."""


def option(name: str) -> str:
    """The option of `captionmill worker` for a setting."""
    return OPTIONS.get(name, f"--{name.replace('_', '-')}")


def takes_several(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def choices(field: FieldInfo) -> tuple[str, ...]:
    """All values of a setting with a fixed set of values, else an empty tuple."""
    annotation = field.annotation
    if NoneType in get_args(annotation):
        annotation = get_args(annotation)[0]
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def metavar(name: str, field: FieldInfo) -> str:
    """The placeholder for a value on a help page."""
    unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), None)
    if unit is not None:
        return unit
    annotation = field.annotation
    kinds = {annotation, *get_args(annotation)}
    if Path in kinds:
        return "FILE" if name.endswith("_file") else "FOLDER"
    if int in kinds or float in kinds:
        return "NUMBER"
    return "JSON" if get_origin(annotation) is dict else "TEXT"


def default(field: FieldInfo) -> str | None:
    """The default as a person types it; None if there is none that can be typed."""
    value = field.get_default(call_default_factory=False)
    if value in (None, PydanticUndefined, (), {}):
        return None
    if hasattr(value, "get_secret_value"):
        return str(value.get_secret_value())
    if isinstance(value, int) and value and value % 2**20 == 0:
        return f"{value} ({value // 2**20} MiB)"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def what_if_unset(field: FieldInfo) -> str | None:
    """The default in words, if it cannot be typed; None for a required setting."""
    extra = field.json_schema_extra
    return str(extra["unset"]) if isinstance(extra, dict) else None


def groups() -> Mapping[str, Mapping[str, FieldInfo]]:
    """Title of a group → its settings by name, in the order of the class."""
    begins = {first: title for title, first in GROUPS.items()}
    found: dict[str, dict[str, FieldInfo]] = {}
    title = ""
    for name, field in Settings.model_fields.items():
        title = begins.get(name, title)
        found.setdefault(title, {})[name] = field
    return found


def described(field: FieldInfo) -> str:
    assert field.description is not None, "a setting has a description"
    return field.description
