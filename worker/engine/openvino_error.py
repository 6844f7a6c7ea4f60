"""Shortens an OpenVINO error to one line; knows not what was asked of OpenVINO."""


def reason(error: RuntimeError) -> str:
    """The error's last line; the lines before it name places in OpenVINO's source."""
    return str(error).strip().splitlines()[-1].strip()
