"""Trains the demo model from nothing; the one place of the demo that knows torch."""
