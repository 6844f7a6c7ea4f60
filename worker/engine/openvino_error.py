"""Says in one line what OpenVINO refuses; knows not what was asked of it."""


def reason(error: RuntimeError) -> str:
    """The last line of an OpenVINO error: the lines before it tell where in its source it was raised."""
    return str(error).strip().splitlines()[-1].strip()
