"""Tells what devices OpenVINO finds here, whether the setting names one, and whether one takes a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import openvino

from worker.errors import StartupError


class UnknownDeviceError(StartupError):
    """The device setting names nothing on this machine."""


def resolve_device(device: str) -> str:
    """The device's name as OpenVINO takes it: CPU, NPU, AUTO, GPU or GPU.n.

    Raises UnknownDeviceError, naming those that are available.
    """
    found: list[str] = openvino.Core().available_devices
    accepted = {*found, "AUTO"}
    for name in found:
        # With one GPU it is called GPU, with several GPU.0, GPU.1, …; both forms are good in both cases.
        if name == "GPU":
            accepted.add("GPU.0")
        if name.startswith("GPU."):
            accepted.add("GPU")
    wanted = device.strip().upper()
    if wanted not in accepted:
        raise UnknownDeviceError(
            f'There is no device "{device}" here; available are {", ".join([*found, "AUTO"])}.'
        )
    return wanted


def found_devices() -> dict[str, str]:
    """OpenVINO's name of each device → the name on its box."""
    core = openvino.Core()
    return {name: str(core.get_property(name, "FULL_DEVICE_NAME")) for name in core.available_devices}


def unsupported_operations(part: Path, device: str) -> list[str]:
    """Operations of a model file that `device` does not compute. Raises RuntimeError for what is no model."""
    core = openvino.Core()
    model = core.read_model(part)
    supported: Mapping[str, Any] = core.query_model(model, device)
    left: Sequence[Any] = [one for one in model.get_ops() if one.get_friendly_name() not in supported]
    return sorted({str(one.get_type_name()) for one in left})


def compile_for(part: Path, device: str, properties: Mapping[str, str]) -> None:
    """Raises RuntimeError with OpenVINO's words where it cannot."""
    openvino.Core().compile_model(part, device, dict(properties))
