"""Tiny checkpoints in the layouts that repositories are published in."""
