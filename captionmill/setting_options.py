"""Settings as people read and type them: their option, what stands for a value, their default, their group.

Both the `worker` command and docs/settings.md are made from this, so that they say the same.
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
    # A help page of 80 columns has no room for more.
    "dynamic_quantization_group_size": "--quantization-group",
}
"""Those that are not named as their setting is: what is typed most, and what is repeated for several."""
UNITS: Final = {"_bytes": "BYTES", "_px": "PIXELS", "_s": "SECONDS"}
"""End of a setting's name → what stands for its value."""


def option(name: str) -> str:
    """The option of `captionmill worker` that gives a setting."""
    return OPTIONS.get(name, f"--{name.replace('_', '-')}")


def takes_several(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The only values there are; empty where there are more than these."""
    annotation = field.annotation
    if NoneType in get_args(annotation):
        annotation = get_args(annotation)[0]
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def metavar(name: str, field: FieldInfo) -> str:
    """What stands for the value on a help page."""
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
    """None where none can be typed."""
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
    """In words, where there is no default that could be typed; None where the setting is required."""
    extra = field.json_schema_extra
    return str(extra["unset"]) if isinstance(extra, dict) else None


def groups() -> Mapping[str, Mapping[str, FieldInfo]]:
    """Title → its settings by name, in the order of the class."""
    begins = {first: title for title, first in GROUPS.items()}
    found: dict[str, dict[str, FieldInfo]] = {}
    title = ""
    for name, field in Settings.model_fields.items():
        title = begins.get(name, title)
        found.setdefault(title, {})[name] = field
    return found


def described(field: FieldInfo) -> str:
    assert field.description is not None, "every setting says what it is"
    return field.description
