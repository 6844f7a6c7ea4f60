"""Checks the device setting against the devices OpenVINO finds here; knows nothing of models."""

import openvino


class UnknownDeviceError(ValueError):
    """The device setting names nothing on this machine; the message is a sentence for the operator."""


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
