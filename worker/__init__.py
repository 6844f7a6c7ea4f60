"""Answers jobs: takes them from the queue, generates with OpenVINO and writes one record for each."""
