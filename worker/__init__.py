"""Answers jobs: takes them from the queue, generates with OpenVINO and writes one record for each."""

import sys

# Without its telemetry OpenVINO writes no file into the user's home and reports no usage.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
