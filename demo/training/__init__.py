"""Trains the demo model from scratch, with torch."""
