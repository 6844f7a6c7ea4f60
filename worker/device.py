"""Finds OpenVINO's devices, and tells whether a model runs on one of them; knows no job."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino

from worker.errors import StartupError


class UnknownDeviceError(StartupError):
    """The device setting names no device of this machine."""


def resolve_device(device: str) -> str:
    """OpenVINO's name of the device: CPU, NPU, AUTO, GPU or GPU.n.

    Raises UnknownDeviceError, which names the available devices.
    """
    found: list[str] = openvino.Core().available_devices
    accepted = {*found, "AUTO"}
    for name in found:
        # OpenVINO lists one GPU as GPU and several as GPU.0, GPU.1, …; it accepts both forms in both cases.
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
    """OpenVINO's name of each device → its product name."""
    core = openvino.Core()
    return {name: str(core.get_property(name, "FULL_DEVICE_NAME")) for name in core.available_devices}


def unsupported_operations(part: Path, device: str) -> list[str]:
    """Types of the operations that `device` cannot compute. Raises RuntimeError if the file is no model."""
    core = openvino.Core()
    model = core.read_model(part)
    supported: Mapping[str, Any] = core.query_model(model, device)
    return sorted(
        {str(node.get_type_name()) for node in model.get_ops() if node.get_friendly_name() not in supported}
    )


def compile_for(part: Path, device: str, properties: Mapping[str, str]) -> None:
    """Compile a model file for `device` as a check. Raises RuntimeError with OpenVINO's reason."""
    openvino.Core().compile_model(part, device, dict(properties))
