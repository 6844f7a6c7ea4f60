"""Turns a Hugging Face LLaVA checkpoint into a model folder that a worker runs."""

import sys

# OpenVINO would make a file in the user's home and report each use to its makers; without it, it does not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
