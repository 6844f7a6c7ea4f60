"""Writes answered rows in the usual file formats; knows no queue and no workers."""
