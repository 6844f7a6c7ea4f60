"""Bytes and pixels of a job's image: fetched, decoded within limits; knows no model and no queue."""
