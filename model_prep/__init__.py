"""Converts a Hugging Face checkpoint of the LLaVA family into a model folder for workers."""

import sys

# Without this, OpenVINO writes a file into the user's home and reports each use to its makers.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
